//! Promise I5: however a merchants file is broken, no message and no `Debug` shows a key.

use std::fs;

use countersign::config::Snapshot;
use proptest::prelude::*;

/// Neither a merid nor a URL can be made of it, so that it is never taken for something public.
const CANARY: &str = "+CAN/ARY=7d0f9b";
const SHORTEST_LEAK: &str = "CAN/ARY";

fn good() -> String {
    let one = |n: usize| {
        format!(
            "[[merchant]]\nmerid = \"10000000000000{n}\"\nkey = \"{CANARY}{n}\"\n\
             old_keys = ['{CANARY}-old', \"{CANARY}-older\"]\n\
             back = \"http://127.0.0.1:9000/back\"\n\n"
        )
    };
    (1..=3).map(one).collect::<String>() + "[end]\nmerchants = 3\n"
}

const WORDS: &[&str] = &[
    "key = ",
    "merid = ",
    "old_keys = ",
    "back = ",
    "= ",
    "\n",
    "\"",
    "[[merchant]]",
];
const SCRAPS: &[&str] = &[
    "",
    " ",
    "\"",
    "'",
    "\"\"\"",
    "'''",
    "\n",
    "=",
    " = ",
    "[",
    "]",
    "[[",
    "{",
    "}",
    ",",
    "#",
    ".",
    "\\",
    "\\u",
    "0x",
    "key_file = ",
    "key_env = ",
    "key = ",
    "merid = ",
    "front = ",
    "1979-05-27T",
    "\r",
    "\0",
    "\u{feff}",
    "商",
];

#[derive(Debug, Clone)]
enum Damage {
    Cut(usize),
    Remove(usize, usize),
    Insert(usize, &'static str),
    Overwrite(usize, u8),
    Move(usize, usize, usize),
    /// The so-manieth place of a word gets another one: the slips that people make.
    Replace(usize, &'static str, &'static str),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = || 0usize..1_000;
    let scrap = || prop::sample::select(SCRAPS);
    let word = prop::sample::select(WORDS);
    prop_oneof![
        1 => at().prop_map(Damage::Cut),
        1 => (at(), 1usize..60).prop_map(|(at, n)| Damage::Remove(at, n)),
        1 => (at(), scrap()).prop_map(|(at, text)| Damage::Insert(at, text)),
        1 => (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Overwrite(at, byte)),
        1 => (at(), 1usize..60, at()).prop_map(|(from, n, to)| Damage::Move(from, n, to)),
        6 => (0usize..12, word, scrap()).prop_map(|(n, word, by)| Damage::Replace(n, word, by)),
    ]
}

fn apply(text: &mut Vec<u8>, damage: &Damage) {
    let within = |at: usize| at % (text.len() + 1);
    match *damage {
        Damage::Cut(at) => text.truncate(within(at)),
        Damage::Remove(at, n) => {
            let at = within(at);
            text.drain(at..(at + n).min(text.len()));
        }
        Damage::Insert(at, scrap) => {
            let at = within(at);
            text.splice(at..at, scrap.bytes());
        }
        Damage::Overwrite(at, byte) => {
            let at = within(at);
            if let Some(old) = text.get_mut(at) {
                *old = byte;
            }
        }
        Damage::Move(from, n, to) => {
            let from = within(from);
            let part: Vec<u8> = text.drain(from..(from + n).min(text.len())).collect();
            let to = to % (text.len() + 1);
            text.splice(to..to, part);
        }
        Damage::Replace(n, word, by) => {
            let is_word = |(_, part): &(usize, &[u8])| *part == word.as_bytes();
            let place = text.windows(word.len()).enumerate().filter(is_word).nth(n);
            if let Some(at) = place.map(|(at, _)| at) {
                text.splice(at..at + word.len(), by.bytes());
            }
        }
    }
}

/// Everything that a load prints by itself. URLs are public, and damage may have put a key into one: they are left out.
fn shown(text: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.toml");
    fs::write(&file, text).unwrap();
    match Snapshot::load(&file, &|_| None) {
        Err(problems) => format!("{problems}\n{problems:?}\n{problems:#?}"),
        Ok(snapshot) => {
            let keys: Vec<_> = snapshot
                .iter()
                .flat_map(|merchant| merchant.verifying_keys())
                .collect();
            format!("{snapshot:?} {:?} {keys:?}", snapshot.warnings())
        }
    }
}

#[test]
fn whole_file_is_shown_without_its_keys() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.toml");
    fs::write(&file, good()).unwrap();
    let snapshot = Snapshot::load(&file, &|_| None).unwrap();
    let merchants: Vec<_> = snapshot.iter().collect();
    let shown = format!("{snapshot:?} {merchants:?} {:?}", snapshot.warnings());
    assert!(
        shown.contains("100000000000001") && !shown.contains(SHORTEST_LEAK),
        "{shown}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_file_never_shows_a_key(damages in prop::collection::vec(damage(), 1..4)) {
        let mut text = good().into_bytes();
        for damage in &damages {
            apply(&mut text, damage);
        }
        let shown = shown(&text);
        prop_assert!(!shown.contains(SHORTEST_LEAK), "{shown}");
    }
}
