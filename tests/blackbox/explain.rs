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
    let long = wire::base64(JSON.repeat(3));
    let in_lines = |end: &str| {
        let lines: Vec<_> = long
            .as_bytes()
            .chunks(76)
            .map(String::from_utf8_lossy)
            .collect();
        lines.join(end) + end
    };
    let chinese = wire::base64(r#"{"merid":"100000000000001","name":"张三"}"#);
    let gbk = wire::base64(b"{\"merid\":\"100000000000001\",\"name\":\"\xd5\xc5\xc8\xfd\"}");
    // The text as the sign's maker should have signed it, the sign, the sentence.
    let causes: Vec<(&str, String, &str)> = vec![
        (
            &text,
            wire::sign(&text, OTHER_KEY),
            "another merchant's key was used",
        ),
        (
            &text,
            wire::md5_hex(&[KEY.as_bytes(), text.as_bytes()]),
            "the key was put before the text: it belongs after it",
        ),
        (
            &text,
            wire::sign(JSON, KEY),
            "the JSON was signed instead of its base64 text",
        ),
        (
            &text,
            spoilt(&text, |t| t.replace('+', " ")),
            "+ was turned into a space before hashing: the text was form-decoded without having been percent-encoded",
        ),
        (
            &text,
            wire::sign(&text, &format!("{KEY}\n")),
            "the key has a trailing newline: it was probably read from a file and not trimmed",
        ),
        (
            &text,
            spoilt(&text, |t| format!("{t}\n")),
            "the text has a trailing newline",
        ),
        (
            &text,
            spoilt(&text, wire::percent),
            "the URL-encoded text was signed: sign first, then encode",
        ),
        (
            &text,
            spoilt(&text, |t| t.replace('+', "-").replace('/', "_")),
            "the text was signed in the base64url alphabet (- and _ for + and /)",
        ),
        (
            &long,
            wire::sign(&in_lines("\r\n"), KEY),
            "the text was signed with line breaks (MIME base64): the bytes changed on the way",
        ),
        (
            &text,
            wire::sign(&text, KEY).to_uppercase(),
            "the signature is in upper-case hex: the same value, but a comparison that minds case fails",
        ),
        (
            &chinese,
            wire::sign(&gbk, KEY),
            "the signer's JSON was in GBK, not UTF-8: the signature covers the base64 of the GBK bytes",
        ),
    ];
    let setup = setup();
    let conf = setup.conf_file();
    for (text, sign, sentence) in &causes {
        let whose = match *sentence {
            "another merchant's key was used" => OTHER_MERID,
            _ => MERID,
        };
        let expected = format!(
            "the signature matches with the key of merchant {whose} once this is assumed:\n- {sentence}\n"
        );
        let explained = explained(&["-c", path_text(&conf)], text, sign);
        assert_eq!(explained, (Some(0), expected));
    }
    // The same by a key alone, where only one is in play.
    let (_folder, key) = key_file(KEY);
    for (text, sign, sentence) in &causes[1..] {
        let expected =
            format!("the signature matches with the key once this is assumed:\n- {sentence}\n");
        let explained = explained(&["--key-file", path_text(&key)], text, sign);
        assert_eq!(explained, (Some(0), expected));
    }
}

#[test]
fn what_is_wrong_with_what_was_given_is_told_from_what_the_signer_did() {
    let text = wire::base64(JSON);
    let sign = wire::sign(&text, KEY);
    for (key, text, sentence) in [
        (
            KEY.to_owned(),
            text.replace('+', " "),
            "the text given has a space where a + was signed: it was form-decoded on the way",
        ),
        (
            format!("{KEY} "),
            text.clone(),
            "the key has a trailing space",
        ),
        (
            format!("{KEY}\n\n"),
            text.clone(),
            "the key has a trailing newline: it was probably read from a file and not trimmed",
        ),
    ] {
        let (_folder, key) = key_file(&key);
        let expected =
            format!("the signature matches with the key once this is assumed:\n- {sentence}\n");
        let explained = explained(&["--key-file", path_text(&key)], &text, &sign);
        assert_eq!(explained, (Some(0), expected));
    }
}

#[test]
fn two_causes_at_once_are_both_named() {
    let text = wire::base64(JSON);
    let (_folder, key) = key_file(KEY);
    let key_first = wire::md5_hex(&[KEY.as_bytes(), JSON.as_bytes()]).to_uppercase();
    let (code, said) = explained(&["--key-file", path_text(&key)], &text, &key_first);
    let causes: Vec<_> = said.lines().filter(|line| line.starts_with("- ")).collect();
    assert_eq!(
        (code, causes),
        (
            Some(0),
            vec![
                "- the key was put before the text: it belongs after it",
                "- the JSON was signed instead of its base64 text",
                "- the signature is in upper-case hex: the same value, but a comparison that minds case fails",
            ]
        )
    );
}

#[test]
fn a_sign_that_matches_is_said_to_match_and_nothing_is_assumed() {
    let text = wire::base64(JSON);
    let setup = setup();
    let conf = setup.conf_file();
    let sign = wire::sign(&text, KEY);
    for arguments in [
        &["-c", path_text(&conf)][..],
        &["-c", path_text(&conf), "--merid", MERID],
    ] {
        let expected = format!("the signature matches the text with the key of merchant {MERID}\n");
        assert_eq!(explained(arguments, &text, &sign), (Some(0), expected));
    }
    let (_folder, key) = key_file(KEY);
    let expected = "the signature matches the text with the key\n".to_owned();
    let explained = explained(&["--key-file", path_text(&key)], &text, &sign);
    assert_eq!(explained, (Some(0), expected));
}

#[test]
fn a_merchant_that_is_not_configured_is_wrong_usage() {
    let text = wire::base64(JSON);
    let setup = setup();
    let conf = setup.conf_file();
    let by_number = ["-c", path_text(&conf), "--merid", "999999999999999"];
    for sign in [
        wire::sign(&text, KEY),
        wire::sign(&text, "nobody's key"),
        String::new(),
    ] {
        let mut command = command();
        command.arg("explain").args(by_number);
        command.args(["--text", &text, "--sign", &sign]);
        let output = run_with_input(&mut command, "");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        assert!(
            crate::cli::text(&output.stderr).contains("merid"),
            "{output:?}"
        );
    }
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
