//! The JSON Schemas of both files: they know what the reader knows, and judge the examples as it does.

use crate::cli::text;
use crate::harness::command;
use crate::skip;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn schema(of: &str) -> Value {
    let output = command().args(["schema", of]).output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The keys that the reader names when it meets one that it does not know.
fn known(settings: &str, merchants: &str) -> BTreeSet<String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("countersign.toml");
    fs::write(&file, settings).unwrap();
    fs::write(folder.path().join("merchants.toml"), merchants).unwrap();
    let mut check = command();
    let output = check.args(["check", "--files", "-c"]).arg(&file).output();
    let said = text(&output.unwrap().stderr);
    let (_, list) = said
        .split_once("unknown key, expected one of ")
        .unwrap_or_else(|| panic!("{said}"));
    let list = list.lines().next().unwrap();
    list.split(", ").map(str::to_owned).collect()
}

fn properties(schema: &Value) -> BTreeSet<String> {
    schema["properties"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect()
}

const URL: &str = "[platform]\nurl = \"http://127.0.0.1:1\"\n";
const UNKNOWN: &str = "wholly_unknown_name_of_a_key = 1\n";

#[test]
fn a_schema_has_the_keys_that_the_reader_knows() {
    let schema = schema("settings");
    assert_eq!(properties(&schema), known(&format!("{UNKNOWN}{URL}"), ""));
    for (section, of_schema) in schema["properties"].as_object().unwrap() {
        if of_schema["type"] != "object" {
            continue;
        }
        let settings = match section.as_str() {
            "platform" => format!("{URL}{UNKNOWN}"),
            _ => format!("{URL}[{section}]\n{UNKNOWN}"),
        };
        assert_eq!(properties(of_schema), known(&settings, ""), "{section}");
    }
    let tls = &schema["properties"]["callbacks"]["properties"]["tls"];
    assert_eq!(
        properties(tls),
        known(&format!("{URL}[callbacks.tls]\n{UNKNOWN}"), "")
    );
    let schema = self::schema("merchants");
    let entry = "[[merchant]]\nmerid = \"1\"\nkey = \"4f1c0a9be84e6e8e1f6f6a2c5b9d31aa\"\n";
    assert_eq!(
        properties(&schema),
        known(URL, &format!("{UNKNOWN}{entry}"))
    );
    let merchant = &schema["properties"]["merchant"]["items"];
    assert_eq!(
        properties(merchant),
        known(URL, &format!("{entry}{UNKNOWN}"))
    );
    let end = &schema["properties"]["end"];
    assert_eq!(
        properties(end),
        known(URL, &format!("{entry}[end]\n{UNKNOWN}"))
    );
}

/// The Python that has a validator: of the checker of Kubernetes' manifests, which stands on one.
fn python() -> Option<PathBuf> {
    let found = std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join("kubernetes-validate"))
        .find(|path| path.exists())?;
    let script = fs::read_to_string(found).ok()?;
    Some(script.lines().next()?.strip_prefix("#!")?.trim().into())
}

const VALIDATE: &str = "
import json, sys, tomllib, jsonschema
schema = json.load(open(sys.argv[1]))
jsonschema.Draft202012Validator.check_schema(schema)
with open(sys.argv[2], 'rb') as file:
    document = tomllib.load(file)
errors = list(jsonschema.Draft202012Validator(schema).iter_errors(document))
print('; '.join(error.message for error in errors))
sys.exit(1 if errors else 0)
";

#[test]
fn a_schema_judges_the_examples_as_the_reader_does() {
    let Some(python) = python() else {
        return skip::skip(
            "a_schema_judges_the_examples_as_the_reader_does",
            "kubernetes-validate, whose Python has a validator, is not installed",
        );
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let judge = |of: &str, file: &Path| {
        let mut command = Command::new(&python);
        command.args(["-c", VALIDATE]);
        command
            .arg(root.join(format!("conf/schema/{of}.json")))
            .arg(file);
        let output = command.output().unwrap();
        (
            output.status.success(),
            text(&output.stdout) + &text(&output.stderr),
        )
    };
    let folder = tempfile::tempdir().unwrap();
    let started = command()
        .arg("init")
        .arg(folder.path().join("pay"))
        .output();
    assert!(started.unwrap().status.success());
    for (of, file) in [
        ("settings", root.join("conf/countersign.toml")),
        ("merchants", root.join("conf/merchants.toml")),
        ("settings", folder.path().join("pay/countersign.toml")),
        ("merchants", folder.path().join("pay/merchants.toml")),
    ] {
        let (is_valid, why) = judge(of, &file);
        assert!(is_valid, "{}: {why}", file.display());
        // The line by which an editor finds the schema leads to one.
        let text = fs::read_to_string(&file).unwrap();
        let named = text
            .lines()
            .next()
            .unwrap()
            .strip_prefix("#:schema ")
            .unwrap();
        assert!(file.with_file_name(named).exists(), "{named}");
    }
    for (of, name) in [
        ("merchants", "merchants-key-number.toml"),
        ("merchants", "merchants-no-key.toml"),
        ("merchants", "merchants-empty-key.toml"),
        ("merchants", "merchants-merid-letters.toml"),
    ] {
        let file = root.join("tests/conf/bad").join(name);
        assert!(!judge(of, &file).0, "{name}");
    }
}
