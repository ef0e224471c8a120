//! Every vector of `tests/spec/vectors.json`, through the sidecar's listener: requests out, answers in.

use crate::harness::{MERID, ORDERID, Sidecar, merchant, query_json};
use crate::platform::{Action, Platform, enveloped, honestly};
use serde_json::Value;
use std::sync::{Arc, Mutex};

pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) json: String,
    /// The base64 text, `req` or `resp`.
    pub(crate) text: String,
    pub(crate) sign: String,
    pub(crate) form: String,
    /// Requests alone: the link's query.
    pub(crate) query: String,
    /// Answers alone.
    pub(crate) verdict: String,
}

impl Case {
    /// A member of the case's JSON; `default` where there is none.
    pub(crate) fn member(&self, name: &str, default: &str) -> String {
        let json: Value = serde_json::from_str(&self.json).unwrap_or(Value::Null);
        json[name].as_str().unwrap_or(default).to_owned()
    }

    pub(crate) fn is_submit(&self) -> bool {
        self.name.starts_with("submit")
    }
}

pub(crate) struct Vectors {
    pub(crate) requests: Vec<Case>,
    pub(crate) answers: Vec<Case>,
}

pub(crate) fn load() -> Vectors {
    let file: Value = serde_json::from_str(include_str!("../spec/vectors.json")).unwrap();
    let cases = |list: &str, text: &str| -> Vec<Case> {
        let text_of = |case: &Value, name: &str| case[name].as_str().unwrap_or_default().to_owned();
        file[list]
            .as_array()
            .unwrap()
            .iter()
            .map(|case| Case {
                name: text_of(case, "name"),
                key: text_of(case, "key"),
                json: text_of(case, "json"),
                text: text_of(case, text),
                sign: text_of(case, "sign"),
                form: text_of(case, "form"),
                query: text_of(case, "query"),
                verdict: text_of(case, "verdict"),
            })
            .collect()
    };
    let vectors = Vectors {
        requests: cases("requests", "req"),
        answers: cases("answers", "resp"),
    };
    assert!(vectors.requests.len() >= 9 && vectors.answers.len() >= 14);
    vectors
}

#[test]
fn every_request_vector_reaches_the_platform_as_its_form() {
    let vectors = load();
    let mut tried = 0;
    // The same merid stands under several keys, so each key gets a sidecar.
    let mut keys: Vec<_> = vectors.requests.iter().map(|case| &case.key).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let cases: Vec<_> = vectors.requests.iter().filter(|c| &c.key == key).collect();
        let merid = cases[0].member("merid", "");
        let platform = Platform::honest(&[(&merid, key)]);
        let url = platform.url();
        let sidecar = Sidecar::start(|conf| {
            conf.platform = url;
            conf.merchants = merchant(&merid, key);
        });
        let calls = cases.len();
        for case in cases {
            let path = if case.is_submit() {
                "/api/icashier"
            } else {
                "/api/query"
            };
            let answer = sidecar.post(path, &case.json);
            assert_eq!(answer.status, 200, "{}: {}", case.name, answer.text());
            let seen = platform.last();
            assert_eq!(seen.form(), case.form, "{}", case.name);
            assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", path));
            assert_eq!(
                seen.header("content-type")
                    .unwrap_or_default()
                    .split(';')
                    .next(),
                Some("application/x-www-form-urlencoded")
            );
            assert_eq!(
                seen.header("host"),
                Some(platform.address.to_string().as_str())
            );
            tried += 1;
        }
        let connections = platform.connections();
        assert!(
            connections <= calls.div_ceil(2),
            "{calls} calls share too little: {connections}"
        );
    }
    assert_eq!(tried, vectors.requests.len());
}

#[test]
fn every_submit_vector_becomes_its_link_and_its_form() {
    let platform = Platform::honest(&[]);
    let sidecar = Sidecar::before(&platform);
    let vectors = load();
    let mut tried = 0;
    for case in vectors.requests.iter().filter(|case| case.is_submit()) {
        let answer = sidecar.post("/apis/icashier", &case.json);
        assert_eq!(answer.status, 200, "{}: {}", case.name, answer.text());
        let link = answer.json();
        let url = platform.url();
        assert_eq!(
            link["url"],
            format!("{url}/apis/icashier?{}", case.query),
            "{}",
            case.name
        );
        assert_eq!(
            link["form"]["action"],
            format!("{url}/api/icashier"),
            "{}",
            case.name
        );
        assert_eq!(link["form"]["fields"]["req"], case.text, "{}", case.name);
        assert_eq!(link["form"]["fields"]["sign"], case.sign, "{}", case.name);
        tried += 1;
    }
    assert_eq!(tried, 3);
    assert_eq!(platform.count(), 0, "a link sends nothing");
}

#[test]
fn every_answer_vector_gets_its_verdict() {
    let reply = Arc::new(Mutex::new(Vec::new()));
    let said = Arc::clone(&reply);
    let platform = Platform::start(move |_| Action::Reply(said.lock().unwrap().clone()));
    let sidecar = Sidecar::before(&platform);
    for case in &load().answers {
        *reply.lock().unwrap() = enveloped(&case.form);
        let answer = sidecar.query(query_json(MERID, &case.member("orderid", ORDERID)));
        let name = &case.name;
        match case.verdict.as_str() {
            "verified" => {
                assert_eq!(answer.status, 200, "{name}: {}", answer.text());
                assert_eq!(answer.text(), case.json, "{name}");
                assert_eq!(
                    answer.header("countersign-verified"),
                    Some("true"),
                    "{name}"
                );
            }
            "bad-signature" => drop(answer.problem(502, "bad-signature", "yes")),
            "malformed" => drop(answer.problem(502, "malformed-answer", "yes")),
            "unsigned" => {
                let problem = answer.problem(502, "unsigned-answer", "yes");
                assert_eq!(problem["platform"]["respcode"], "96", "{name}");
                assert_eq!(problem["platform"]["respmsg"], "商户号不存在", "{name}");
            }
            other => panic!("{name}: a verdict that this test does not know: {other}"),
        }
        if case.verdict != "verified" {
            assert_ne!(
                answer.header("countersign-verified"),
                Some("true"),
                "{name}"
            );
        }
    }
}

#[test]
fn the_platform_s_path_prefix_is_kept() {
    let platform = Platform::start(honestly(&[(MERID, crate::harness::KEY)]));
    let url = format!("{}/gateway/v1", platform.url());
    let prefixed = url.clone();
    let sidecar = Sidecar::start(|conf| conf.platform = prefixed);
    assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
    assert_eq!(platform.last().target, "/gateway/v1/api/query");
    let link = sidecar
        .post("/apis/icashier", crate::harness::submit_json(ORDERID))
        .json();
    assert!(
        link["url"]
            .as_str()
            .unwrap()
            .starts_with(&format!("{url}/apis/icashier?req=")),
        "{link}"
    );
}
