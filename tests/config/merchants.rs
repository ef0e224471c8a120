//! The fields of a merchant: each as it is meant, and its neighbours that are rejected.

use std::fs;
use std::path::Path;

use countersign::config::{DeliveryForm, Merchant, MerchantRules, Snapshot};

const KEY: &str = "7d0f1c0a9be84e6e8e1f6f6a2c5b9d31";
const NEXT: &str = "c1e0a54b7f3d4f0f9a6b0d2e8c7a5b13";
const TOKEN: &str = "3f786850e387550fdab836ed7e6dc881";
const STRICT: MerchantRules = MerchantRules {
    public_keys_allowed: false,
    has_callbacks: true,
};

fn load(rules: MerchantRules, folder: &Path, lines: &str) -> Result<Snapshot, String> {
    let file = folder.join("m.toml");
    fs::write(&file, format!("[[merchant]]\nmerid = \"1\"\n{lines}")).unwrap();
    let env = |name: &str| (name == "SECRET").then(|| TOKEN.to_owned());
    Snapshot::load_for(rules, &file, &env).map_err(|problems| problems.to_string())
}

fn merchant(lines: &str) -> Merchant {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("secret"), format!("\u{feff}{TOKEN}\r\n")).unwrap();
    let snapshot = load(STRICT, folder.path(), &format!("key = \"{KEY}\"\n{lines}")).unwrap();
    (**snapshot.sole().unwrap()).clone()
}

fn rejection(lines: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    load(STRICT, folder.path(), &format!("key = \"{KEY}\"\n{lines}")).unwrap_err()
}

#[test]
fn a_secret_is_text_or_a_file_or_a_variable() {
    let next_keys = [
        format!("next_key = \"{TOKEN}\""),
        "next_key_file = \"secret\"".to_owned(),
        "next_key_env = \"SECRET\"".to_owned(),
    ];
    let fingerprints = next_keys.map(|line| merchant(&line).next_key.unwrap().fingerprint());
    assert!(fingerprints.iter().all(|it| *it == fingerprints[0]));
    for line in [
        &format!("back_token = \"{TOKEN}\""),
        "back_token_file = \"secret\"",
        "back_token_env = \"SECRET\"",
    ] {
        assert!(merchant(line).back_token.unwrap().is(TOKEN), "{line}");
    }
    let two = format!("next_key = \"{NEXT}\"\nnext_key_env = \"SECRET\"");
    assert!(rejection(&two).contains("only one of next_key, next_key_file, next_key_env"));
    for (line, path) in [
        ("next_key = \"\"", "merchant[1].next_key"),
        ("next_key_file = \"none\"", "merchant[1].next_key_file"),
        ("back_token = \"short\"", "merchant[1].back_token"),
        ("back_token_env = \"UNSET\"", "merchant[1].back_token_env"),
        (
            "back_token = \"${THE_BACK_TOKEN}\"",
            "merchant[1].back_token",
        ),
    ] {
        let said = rejection(line);
        assert!(
            said.contains(":4: ") && said.contains(path),
            "{line}: {said}"
        );
    }
    // A name that leads nowhere may be a misplaced key; one that leads to a file is none.
    assert!(!rejection("next_key_file = \"none\"").contains("none"));
    assert!(rejection("next_key_file = \"../\"").contains("not a regular file: "));
}

#[test]
fn keys_verify_in_their_order() {
    let merchant = merchant(&format!("next_key = \"{NEXT}\"\nold_keys = [\"{TOKEN}\"]"));
    assert_eq!(merchant.verifying_keys().count(), 3);
    assert!(merchant.is_next_key(1) && !merchant.is_next_key(0));
    assert_eq!(merchant.old_key(2), merchant.old_keys.first());
    assert_eq!((merchant.old_key(0), merchant.old_key(1)), (None, None));
}

#[test]
fn a_delivery_is_json_or_an_envelope() {
    assert_eq!(merchant("").deliver, DeliveryForm::Json);
    assert_eq!(merchant("deliver = \"json\"").deliver, DeliveryForm::Json);
    assert_eq!(
        merchant("deliver = \"envelope\"").deliver,
        DeliveryForm::Envelope
    );
    for line in ["deliver = \"form\"", "deliver = true"] {
        assert!(
            rejection(line).contains("\"json\" or \"envelope\""),
            "{line}"
        );
    }
}

#[test]
fn front_redirect_excludes_front_and_names_no_field_of_a_result() {
    let right = merchant("front_redirect = \"https://shop.example.com/done?lang=zh&result=1\"");
    assert!(right.front_redirect.is_some() && right.front.is_none());
    let both = "front = \"http://127.0.0.1/\"\nfront_redirect = \"https://shop.example.com/\"";
    assert!(rejection(both).contains("only one of front and front_redirect"));
    for query in [
        "resultcode=0000",
        "a=1&txnamt",
        "%72esultcode=1",
        "ResultCode=1",
        "+resultcode=1",
        "resultcode%00x=1",
        "resultcode[]=1",
        "sign=1",
    ] {
        let said = rejection(&format!(
            "front_redirect = \"https://shop.example.com/?{query}\""
        ));
        assert!(
            said.contains("merchant[1].front_redirect"),
            "{query}: {said}"
        );
    }
}

#[test]
fn public_keys_and_templates_are_for_a_platform_on_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    for key in [
        "${PAY_KEY}",
        "{{ pay_key }}",
        "<PUT-KEY-HERE>",
        "demo-key-one-0123456789abcdef0123",
        "placeholder-put-the-key-from-the-platform-here",
    ] {
        for lines in [
            format!("key = \"{key}\""),
            format!("key = \"{KEY}\"\nnext_key = \"{key}\""),
            format!("key = \"{KEY}\"\nold_keys = [\"{key}\"]"),
        ] {
            let said = load(STRICT, folder.path(), &lines).unwrap_err();
            assert!(said.contains("m.toml:") && !said.contains(key), "{said}");
            assert!(load(MerchantRules::LENIENT, folder.path(), &lines).is_ok());
        }
    }
}

#[test]
fn a_result_that_anyone_can_make_up_is_called_out() {
    let folder = tempfile::tempdir().unwrap();
    let warnings = |lines: &str| {
        let lines = format!("key = \"{KEY}\"\n{lines}");
        load(STRICT, folder.path(), &lines)
            .unwrap()
            .warnings()
            .to_vec()
    };
    let remote = "back = \"https://shop.example.com/back\"\n";
    assert!(warnings(remote)[0].contains("merchant 1: anyone who reaches back"));
    for lines in [
        "back = \"http://127.0.0.1:9/back\"".to_owned(),
        format!("{remote}back_token = \"{TOKEN}\""),
        format!("{remote}deliver = \"envelope\""),
    ] {
        assert_eq!(warnings(&lines), [""; 0], "{lines}");
    }
    let rules = MerchantRules {
        has_callbacks: false,
        ..STRICT
    };
    let lines = format!("key = \"{KEY}\"\nback = \"http://127.0.0.1/\"");
    let without = load(rules, folder.path(), &lines).unwrap();
    assert!(without.warnings()[0].contains("no [callbacks]"));
}

#[test]
fn another_encoding_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.toml");
    let text = format!("# 商户的密钥\n[[merchant]]\nmerid = \"1\"\nkey = \"{KEY}\"\n");
    let utf16: Vec<u8> = std::iter::once(0xfeff)
        .chain(text.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    for (bytes, name) in [
        (
            b"# \xc9\xcc\xbb\xa7\xb5\xc4\xc3\xdc\xd4\xbf\nmerid = \"1\"\n".to_vec(),
            "looks like GBK",
        ),
        (utf16, "looks like UTF-16"),
        (b"a = \"\xff\"\n".to_vec(), "m.toml:1: expected UTF-8 text"),
    ] {
        fs::write(&file, bytes).unwrap();
        let said = Snapshot::load(&file, &|_| None).unwrap_err().to_string();
        assert!(said.contains(name), "{said}");
    }
    fs::write(&file, format!("\u{feff}{text}")).unwrap();
    assert!(
        Snapshot::load(&file, &|_| None).is_ok(),
        "a byte order mark is no problem"
    );
}
