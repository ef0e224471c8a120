//! Every file in `conf/` loads; every bad example is refused with the message beside it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use countersign::config::{Problems, Settings, Snapshot};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn no_env(_: &str) -> Option<String> {
    None
}

/// The messages with each file by its name alone and their folder as FOLDER, as the `.expected` files have them.
fn messages(problems: Problems) -> String {
    let mut text = String::new();
    for mut problem in problems.0 {
        problem.file = problem.file.file_name().unwrap().into();
        text += &format!("{problem}\n");
    }
    text.replace(folder("tests/conf/bad").to_str().unwrap(), "FOLDER")
}

/// Set `COUNTERSIGN_BLESS` to write the messages anew, then read the difference.
fn check_bad(prefix: &str, at_least: usize, load: impl Fn(&Path) -> Result<(), Problems>) {
    let mut wrong = Vec::new();
    let mut found = 0;
    for entry in folder("tests/conf/bad").read_dir().unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.starts_with(prefix) || !name.ends_with(".toml") {
            continue;
        }
        found += 1;
        let got = messages(load(&file).expect_err(&name));
        let beside = file.with_extension("expected");
        if std::env::var_os("COUNTERSIGN_BLESS").is_some() {
            std::fs::write(&beside, &got).unwrap();
        }
        let expected = std::fs::read_to_string(&beside).unwrap_or_default();
        if got != expected {
            wrong.push(format!("{name}\n--- expected\n{expected}--- got\n{got}"));
        }
    }
    assert!(found >= at_least, "only {found} {prefix}*.toml");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn bad_merchants_are_refused_with_every_problem() {
    check_bad("merchants-", 20, |file| {
        Snapshot::load(file, &no_env).map(|_| ())
    });
}

#[test]
fn bad_settings_are_refused_with_every_problem() {
    check_bad("settings-", 12, |file| {
        Settings::load(file, &[], &no_env).map(|_| ())
    });
}

#[test]
fn no_expected_message_shows_a_key() {
    let mut found = 0;
    for entry in folder("tests/conf/bad").read_dir().unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_some_and(|kind| kind == "expected") {
            found += 1;
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(!text.is_empty() && !text.contains("canary"), "{file:?}");
        }
    }
    assert!(found > 30, "only {found}");
}

#[test]
fn examples_load_without_a_warning_that_matters() {
    let names: BTreeSet<_> = folder("conf")
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".md"))
        .collect();
    // All but the two examples are tried by the tests of alerts, of packages and of the docs.
    let known = "alerts.yml commit.rs countersign.toml debian docker examples grafana-dashboard.json kubernetes merchants.toml openapi.json schema systemd";
    assert_eq!(names, known.split(' ').map(String::from).collect());
    let settings = Settings::load(&folder("conf/countersign.toml"), &[], &no_env).unwrap();
    assert_eq!(settings.warnings, [""; 0]);
    assert_eq!(settings.merchants, folder("conf/merchants.toml"));
    let merchants = Snapshot::load(&settings.merchants, &no_env).unwrap();
    assert_eq!(merchants.warnings(), [""; 0]);
    assert_eq!(merchants.sole().unwrap().merid, "100000000000001");
}

#[test]
fn missing_settings_file_is_one_problem() {
    let problems = Settings::load(Path::new("nowhere/c.toml"), &[], &no_env).unwrap_err();
    assert_eq!(problems.to_string(), "nowhere/c.toml: no such file");
}
