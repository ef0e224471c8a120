//! `explain`: for each usual cause of a wrong sign, the sentence that names it.

use crate::cli::{key_file, path_text, text};
use crate::harness::{
    KEY, MERID, OTHER_KEY, OTHER_MERID, Setup, command, merchant, run_with_input,
};
use crate::wire;

/// Its base64 has a `+`, a `/` and padding, and it says something in Chinese.
const JSON: &str = r#"{"merid":"100000000000001","memo":"~~~???>>>ÿþýûÿ"}"#;

/// What it says and its exit code.
fn explained(arguments: &[&str], text_given: &str, sign: &str) -> (Option<i32>, String) {
    let mut command = command();
    command.arg("explain").args(arguments);
    command.args(["--text", text_given, "--sign", sign]);
    let output = run_with_input(&mut command, "");
    let said = text(&output.stdout);
    assert!(!said.contains(KEY) && !said.contains(OTHER_KEY), "{said}");
    (output.status.code(), said)
}

fn setup() -> Setup {
    Setup::new(|conf| conf.merchants = merchant(MERID, KEY) + &merchant(OTHER_MERID, OTHER_KEY))
}

fn spoilt(text: &str, how: impl Fn(&str) -> String) -> String {
    let spoilt = how(text);
    assert_ne!(spoilt, text, "nothing was spoilt");
    wire::sign(&spoilt, KEY)
}

#[test]
fn each_usual_cause_is_named() {
    let text = wire::base64(JSON);
    let in_lines = |end: &str| {
        let lines: Vec<_> = text
            .as_bytes()
            .chunks(76)
            .map(String::from_utf8_lossy)
            .collect();
        lines.join(end) + end
    };
    let chinese = wire::base64(r#"{"merid":"100000000000001","name":"张三"}"#);
    let gbk = wire::base64(b"{\"merid\":\"100000000000001\",\"name\":\"\xd5\xc5\xc8\xfd\"}");
    // The text as the sign's maker should have signed it, the sign, words of which one must be said.
    let causes: Vec<(&str, &str, String, &[&str])> = vec![
        (
            "another merchant's key",
            &text,
            wire::sign(&text, OTHER_KEY),
            &[OTHER_MERID],
        ),
        (
            "key first",
            &text,
            wire::md5_hex(&[KEY.as_bytes(), text.as_bytes()]),
            &["first", "before"],
        ),
        ("the JSON signed", &text, wire::sign(JSON, KEY), &["json"]),
        (
            "a plus made a space",
            &text,
            spoilt(&text, |t| t.replace('+', " ")),
            &["space"],
        ),
        (
            "a line end in the key",
            &text,
            wire::sign(&text, &format!("{KEY}\n")),
            &["newline", "line end", "line break"],
        ),
        (
            "a line end in the text",
            &text,
            spoilt(&text, |t| format!("{t}\n")),
            &["newline", "line end", "line break"],
        ),
        (
            "URL-encoded first",
            &text,
            spoilt(&text, wire::percent),
            &["url-encoded", "urlencoded", "percent"],
        ),
        (
            "base64url",
            &text,
            spoilt(&text, |t| t.replace('+', "-").replace('/', "_")),
            &["base64url", "url-safe"],
        ),
        (
            "line breaks",
            &text,
            wire::sign(&in_lines("\r\n"), KEY),
            &["line"],
        ),
        (
            "upper case",
            &text,
            wire::sign(&text, KEY).to_uppercase(),
            &["upper"],
        ),
        ("GBK", &chinese, wire::sign(&gbk, KEY), &["gbk"]),
    ];
    let setup = setup();
    let conf = setup.conf_file();
    for (name, text, sign, words) in &causes {
        let (code, said) = explained(&["-c", path_text(&conf)], text, sign);
        assert_eq!(code, Some(0), "{name}: {said}");
        let lower = said.to_lowercase();
        assert!(
            words.iter().any(|word| lower.contains(word)),
            "{name}: {said}"
        );
    }
    // The same by a key alone, where only one is in play.
    let (_folder, key) = key_file(KEY);
    for (name, text, sign, words) in &causes[1..] {
        let (code, said) = explained(&["--key-file", path_text(&key)], text, sign);
        assert_eq!(code, Some(0), "{name}: {said}");
        let lower = said.to_lowercase();
        assert!(
            words.iter().any(|word| lower.contains(word)),
            "{name}: {said}"
        );
    }
}

#[test]
fn a_sign_that_matches_is_said_to_match() {
    let text = wire::base64(JSON);
    let setup = setup();
    let conf = setup.conf_file();
    let (code, said) = explained(&["-c", path_text(&conf)], &text, &wire::sign(&text, KEY));
    assert_eq!(code, Some(0), "{said}");
    let lower = said.to_lowercase();
    assert!(
        ["match", "right", "fits", "correct"]
            .iter()
            .any(|word| lower.contains(word)),
        "{said}"
    );
}

#[test]
fn what_nothing_explains_ends_with_1() {
    let text = wire::base64(JSON);
    let setup = setup();
    let conf = setup.conf_file();
    for sign in [
        wire::sign(&text, "nobody's key"),
        "0".repeat(32),
        "0123".to_owned(),
    ] {
        let (code, said) = explained(&["-c", path_text(&conf)], &text, &sign);
        assert_eq!(code, Some(1), "{sign}: {said}");
    }
}

#[test]
fn an_empty_sign_is_said_to_be_empty() {
    let setup = setup();
    let conf = setup.conf_file();
    let (code, said) = explained(&["-c", path_text(&conf)], &wire::base64(JSON), "");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("empty"), "{said}");
}
