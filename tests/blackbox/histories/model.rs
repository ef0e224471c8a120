//! The promises that a history must not break, judged by the platform's results, the app's deliveries and the store's list.

use std::collections::{BTreeMap, BTreeSet};

/// A result as the platform may tell it: order, state, amount.
pub(super) type Key = (String, String, i64);

/// The platform's result, as far as it is known from outside.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    /// The sidecar replied `0000`.
    pub(super) is_acknowledged: bool,
    /// Rightly signed payloads that say it.
    pub(super) payloads: BTreeSet<String>,
    /// A higher state was listed as delivered before this one was first notified.
    pub(super) is_late: bool,
}

/// One delivery as the app saw it.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    pub(super) event: String,
    pub(super) attempt: u32,
    pub(super) body: String,
    pub(super) orderid: String,
    pub(super) resultcode: String,
    pub(super) is_superseded: bool,
    /// The app took it, whether or not its reply arrived.
    pub(super) is_taken: bool,
    /// An earlier query about this payment was answered with 0000.
    pub(super) is_confirmed: bool,
}

/// One line of `inbox list`.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub(super) id: String,
    pub(super) state: String,
    pub(super) key: Key,
}

impl Listed {
    pub(super) fn parse(line: &str) -> Option<Self> {
        let words: Vec<_> = line.split_whitespace().collect();
        let [id, state, _, orderid, resultcode, amount, ..] = words[..] else {
            return None;
        };
        Some(Self {
            id: id.to_owned(),
            state: state.to_owned(),
            key: (
                orderid.to_owned(),
                resultcode.to_owned(),
                amount.parse().ok()?,
            ),
        })
    }
}

/// Everything that is known from outside.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) told: BTreeMap<Key, Told>,
    /// "Paid" is delivered only after the platform confirmed it.
    pub(super) confirms: bool,
    /// Orders with results of two amounts.
    pub(super) misstated: BTreeSet<String>,
    /// Events that an operator decided about.
    pub(super) decided: BTreeSet<String>,
    pub(super) discarded: BTreeSet<String>,
    /// Events whose payload was changed in the store.
    pub(super) damaged: BTreeSet<String>,
    /// Submits of each order.
    pub(super) submits: BTreeMap<String, usize>,
}

fn must(holds: bool, claim: impl FnOnce() -> String) -> Result<(), String> {
    holds.then_some(()).ok_or_else(claim)
}

/// The rank of a state among those of one payment (the platform's states in order of finality); 1004 has none.
pub(super) fn rank(resultcode: &str) -> Option<usize> {
    ["1001", "1003", "1002", "0000"]
        .iter()
        .position(|it| *it == resultcode)
}

impl Model {
    /// Adds a result with its payloads.
    pub(super) fn tell(&mut self, key: Key, payloads: [String; 2]) -> &mut Told {
        let told = self.told.entry(key).or_default();
        told.payloads.extend(payloads);
        told
    }

    /// Judges the store's list, after everything had its time and its chance.
    pub(super) fn judge_list(&self, lines: &[Listed], heard: &[Heard]) -> Result<(), String> {
        let keys: BTreeSet<_> = lines.iter().map(|line| &line.key).collect();
        for (key, told) in &self.told {
            must(!told.is_acknowledged || keys.contains(key), || {
                format!("I1: acknowledged and gone: {key:?}")
            })?;
        }
        must(keys.len() == lines.len(), || {
            format!("I4: one result under two ids: {lines:?}")
        })?;
        for line in lines {
            must(self.told.contains_key(&line.key), || {
                format!("I2: nobody told this: {line:?}")
            })?;
            self.judge_line(line, heard)?;
        }
        Ok(())
    }

    fn judge_line(&self, line: &Listed, heard: &[Heard]) -> Result<(), String> {
        let is_damaged = self.damaged.contains(&line.id);
        let was_taken = || heard.iter().any(|it| it.event == line.id && it.is_taken);
        let is_right = match line.state.as_str() {
            "delivered" => was_taken(),
            "discarded" => self.discarded.contains(&line.id),
            "disputed" => is_damaged || self.misstated.contains(&line.key.0),
            "parked" => is_damaged,
            _ => false,
        };
        must(is_right, || format!("I4: in the end: {line:?}"))
    }

    /// Judges all that the app saw.
    pub(super) fn judge_heard(&self, lines: &[Listed], heard: &[Heard]) -> Result<(), String> {
        let ids: BTreeMap<_, _> = lines.iter().map(|line| (&line.id, &line.key)).collect();
        let mut attempts: BTreeMap<&String, u32> = BTreeMap::new();
        let mut taken: BTreeMap<&String, usize> = BTreeMap::new();
        for it in heard {
            let key = ids.get(&it.event).copied();
            let key = key.ok_or_else(|| format!("I1: delivered and not listed: {it:?}"))?;
            let told = self.told.get(key);
            let told = told.ok_or_else(|| format!("I2: nobody told this: {it:?}"))?;
            must(told.payloads.contains(&it.body), || {
                format!("I2: the platform never signed this: {it:?}")
            })?;
            let before = attempts.entry(&it.event).or_default();
            must(it.attempt >= *before, || {
                format!("history: attempt {before} came before {it:?}")
            })?;
            *before = it.attempt;
            let is_paid = it.resultcode == "0000" && self.confirms;
            let is_decided = self.decided.contains(&it.event);
            must(!is_paid || it.is_confirmed || is_decided, || {
                format!("confirm: delivered unconfirmed: {it:?}")
            })?;
            let own = rank(&it.resultcode);
            let is_below =
                own.is_some_and(|own| taken.get(&it.orderid).is_some_and(|it| *it > own));
            must(is_below || !it.is_superseded, || {
                format!("late states: marked without a reason: {it:?}")
            })?;
            must(it.is_superseded || !told.is_late, || {
                format!("late states: not marked: {it:?}")
            })?;
            if let (true, Some(own)) = (it.is_taken, own) {
                let highest = taken.entry(&it.orderid).or_default();
                *highest = (*highest).max(own);
            }
        }
        Ok(())
    }

    /// Judges the submits that reached the platform.
    pub(super) fn judge_submits(&self, arrived: &BTreeMap<String, usize>) -> Result<(), String> {
        for (orderid, count) in arrived {
            let made = self.submits.get(orderid).copied().unwrap_or_default();
            must(*count <= made, || {
                format!("I3: {made} submits of {orderid} arrived {count} times")
            })?;
        }
        Ok(())
    }
}

mod tests {
    use super::*;

    fn key(resultcode: &str) -> Key {
        ("A1".to_owned(), resultcode.to_owned(), 1280)
    }

    fn line(id: &str, resultcode: &str, state: &str) -> Listed {
        Listed {
            id: id.to_owned(),
            state: state.to_owned(),
            key: key(resultcode),
        }
    }

    /// One payment that was acknowledged, and its delivery.
    fn good() -> (Model, Heard) {
        let mut model = Model {
            confirms: true,
            ..Model::default()
        };
        let told = model.tell(key("0000"), ["paid".to_owned(), "answer".to_owned()]);
        told.is_acknowledged = true;
        let heard = Heard {
            event: "E1".to_owned(),
            attempt: 1,
            body: "paid".to_owned(),
            orderid: "A1".to_owned(),
            resultcode: "0000".to_owned(),
            is_superseded: false,
            is_taken: true,
            is_confirmed: true,
        };
        (model, heard)
    }

    #[test]
    fn a_broken_list_is_seen() {
        let (model, heard) = good();
        let heard = [heard];
        let delivered = line("E1", "0000", "delivered");
        assert_eq!(
            model.judge_list(std::slice::from_ref(&delivered), &heard),
            Ok(())
        );
        for (lines, why) in [
            (vec![], "I1"),
            (vec![line("E1", "0000", "pending")], "I4"),
            (vec![line("E1", "0000", "parked")], "I4"),
            (vec![line("E1", "0000", "disputed")], "I4"),
            (
                vec![delivered.clone(), line("E2", "0000", "delivered")],
                "I4",
            ),
            (
                vec![delivered.clone(), line("E2", "1003", "delivered")],
                "I2",
            ),
        ] {
            let broken = model.judge_list(&lines, &heard).unwrap_err();
            assert!(broken.starts_with(why), "{broken}");
        }
        assert!(model.judge_list(&[delivered], &[]).is_err(), "never taken");
    }

    #[test]
    fn a_wrong_delivery_is_seen() {
        let (model, heard) = good();
        let lines = [line("E1", "0000", "delivered")];
        let good = heard.clone();
        assert_eq!(model.judge_heard(&lines, &[good]), Ok(()));
        type Change = fn(&mut Heard);
        let wrong: [(Change, &str); 4] = [
            (|it| it.body = "altered".to_owned(), "I2"),
            (|it| it.event = "E9".to_owned(), "I1"),
            (|it| it.is_confirmed = false, "confirm"),
            (|it| it.is_superseded = true, "late"),
        ];
        for (change, why) in wrong {
            let mut heard = heard.clone();
            change(&mut heard);
            let broken = model.judge_heard(&lines, &[heard]).unwrap_err();
            assert!(broken.starts_with(why), "{broken}");
        }
        let mut later = heard.clone();
        later.attempt = 3;
        let broken = model.judge_heard(&lines, &[later, heard]);
        assert!(broken.is_err(), "attempts went down");
        let arrived = BTreeMap::from([("A1".to_owned(), 1)]);
        assert!(model.judge_submits(&arrived).is_err(), "never submitted");
    }
}
