//! The command line: what each command prints and with which code it ends (0 done, 1 no, 2 wrong usage, 78 bad configuration).

use crate::client;
use crate::harness::{
    KEY, MERID, ORDERID, OTHER_KEY, OTHER_MERID, Setup, command, eventually, exit_within, merchant,
    query_json, run_with_input,
};
use crate::platform::{Action, Platform, enveloped, unsigned};
use crate::vectors;
use crate::wire;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;
use tempfile::TempDir;

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs it with this standard input.
fn run(arguments: &[&str], input: impl AsRef<[u8]>) -> Output {
    run_with_input(command().args(arguments), input)
}

#[track_caller]
fn ends_with(code: i32, arguments: &[&str], input: impl AsRef<[u8]>) -> Output {
    let output = run(arguments, input);
    let said = format!(
        "{arguments:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    output
}

/// One line of output, which may have a line end of its own.
fn printed(output: &Output) -> String {
    let stdout = text(&output.stdout);
    stdout
        .strip_suffix('\n')
        .map(str::to_owned)
        .unwrap_or(stdout)
}

pub(crate) fn key_file(key: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    fs::write(&path, format!("{key}\n")).unwrap();
    (folder, path)
}

pub(crate) fn path_text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn wrong_usage_ends_with_2() {
    for arguments in [
        &["--no-such-flag"][..],
        &["no-such-command"],
        &["run", "--colour"],
        &["probe", "--merid"],
        &["check", "one", "two", "three"],
    ] {
        let output = ends_with(2, arguments, "");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_starter_configuration_passes_the_check_and_replaces_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("etc/countersign");
    ends_with(0, &["init", path_text(&folder)], "");
    let settings = folder.join("countersign.toml");
    let said = ends_with(0, &["check", "--files", "-c", path_text(&settings)], "");
    // The sidecar can fill in an order's backurl as it is.
    let said = text(&said.stdout);
    assert!(said.contains("http://127.0.0.1:8081"), "{said}");
    for secret in ["merchants.toml", "100000000000001.key"] {
        let mode = fs::metadata(folder.join(secret))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    fs::write(folder.join("merchants.toml"), "mine").unwrap();
    fs::remove_file(&settings).unwrap();
    let output = ends_with(2, &["init", path_text(&folder)], "");
    assert!(text(&output.stderr).contains("merchants.toml exists"));
    assert_eq!(
        fs::read_to_string(folder.join("merchants.toml")).unwrap(),
        "mine"
    );
}

#[test]
fn a_starter_configuration_for_a_real_platform_waits_for_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let arguments = [
        "init",
        path_text(folder),
        "--platform",
        "https://pay.example.com",
        "--merid",
        "200000000000002",
    ];
    let said = text(&ends_with(0, &arguments, "").stdout);
    let key = folder.join("200000000000002.key");
    assert!(said.contains(path_text(&key)), "{said}");
    let settings = folder.join("countersign.toml");
    let written = fs::read_to_string(&settings).unwrap();
    assert!(
        written.contains("url = \"https://pay.example.com\"") && written.contains("# public_url")
    );
    let check = ["check", "--files", "-c", path_text(&settings)];
    let refused = text(&ends_with(78, &check, "").stderr);
    assert!(refused.contains("key_file: no such file"), "{refused}");
    fs::write(&key, "7d0f1c0a9be84e6e8e1f0b7c3a6d5e42\n").unwrap();
    ends_with(0, &check, "");
    for wrong in [
        ["--platform", "pay.example.com"],
        ["--merid", "a b"],
        ["--back", "/pay"],
    ] {
        ends_with(
            2,
            &["init", path_text(&folder.join("other")), wrong[0], wrong[1]],
            "",
        );
        assert!(!folder.join("other").exists(), "{wrong:?}");
    }
}

#[test]
fn completions_and_manual_pages_name_every_command() {
    let commands = ["init", "run", "check", "inbox", "sandbox", "probe"];
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = text(&ends_with(0, &["completions", shell], "").stdout);
        for name in commands {
            assert!(script.contains(name), "{shell}: {name}");
        }
    }
    let page = text(&ends_with(0, &["man"], "").stdout);
    assert!(page.contains(".TH countersign 1"), "{page}");
    for name in commands {
        assert!(
            page.contains(&format!("countersign\\-{name}")),
            "{name}: {page}"
        );
    }
    let page = text(&ends_with(0, &["man", "sandbox", "conformance"], "").stdout);
    assert!(
        page.contains("countersign\\-sandbox\\-conformance"),
        "{page}"
    );
    ends_with(2, &["man", "no-such-command"], "");
    ends_with(2, &["completions", "cmd.exe"], "");
}

#[test]
fn help_and_version_end_with_0() {
    let help = text(&ends_with(0, &["--help"], "").stdout);
    for name in [
        "run", "check", "sign", "verify", "decode", "explain", "probe", "demo",
    ] {
        assert!(help.contains(name), "{name} is not in {help}");
        ends_with(0, &[name, "--help"], "");
    }
    let version = text(&ends_with(0, &["--version"], "").stdout);
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
}

#[test]
fn sign_prints_every_vector_s_form() {
    let mut tried = 0;
    for case in vectors::load().requests {
        let (_folder, key) = key_file(&case.key);
        let by_key = ends_with(0, &["sign", "--key-file", path_text(&key)], &case.json);
        assert_eq!(printed(&by_key), case.form, "{}", case.name);
        let merid = case.member("merid", "");
        let setup = Setup::new(|conf| conf.merchants = merchant(&merid, &case.key));
        let conf = setup.conf_file();
        let by_merid = ends_with(
            0,
            &["sign", "-c", path_text(&conf), "--merid", &merid],
            &case.json,
        );
        assert_eq!(printed(&by_merid), case.form, "{}", case.name);
        tried += 1;
    }
    assert!(tried >= 9);
}

#[test]
fn sign_refuses_what_the_sidecar_would_refuse() {
    let (_folder, key) = key_file(KEY);
    for bad in ["", "hello", "[1]", "{\"a\":1,\"a\":2}"] {
        let code = run(&["sign", "--key-file", path_text(&key)], bad)
            .status
            .code();
        assert!(matches!(code, Some(1 | 2)), "{bad:?}: {code:?}");
    }
    let setup = Setup::new(|_| {});
    let conf = setup.conf_file();
    let stranger = ["sign", "-c", path_text(&conf), "--merid", "999"];
    let code = run(&stranger, "{}").status.code();
    assert!(matches!(code, Some(1 | 2)), "{code:?}");
}

#[test]
fn verify_agrees_with_every_vector_s_verdict() {
    let setup = Setup::new(|conf| conf.merchants = merchant(MERID, KEY));
    let conf = setup.conf_file();
    let mut tried = 0;
    for case in vectors::load().answers {
        let (_folder, key) = key_file(&case.key);
        for arguments in [
            &["verify", "--key-file", path_text(&key)][..],
            &["verify", "-c", path_text(&conf), "--merid", MERID],
        ] {
            for end in ["", "\n"] {
                let input = format!("{}{end}", case.form);
                match case.verdict.as_str() {
                    "verified" => {
                        let output = ends_with(0, arguments, input);
                        assert_eq!(printed(&output), case.json, "{}", case.name);
                    }
                    _ => {
                        let output = ends_with(1, arguments, input);
                        assert!(
                            output.stdout.is_empty(),
                            "{}: unverified, yet printed",
                            case.name
                        );
                        assert!(!output.stderr.is_empty(), "{}", case.name);
                    }
                }
            }
        }
        tried += 1;
    }
    assert!(tried >= 14);
}

#[test]
fn verify_finds_the_merchant_by_itself() {
    let setup = Setup::new(|conf| {
        conf.merchants = merchant(MERID, KEY) + &merchant(OTHER_MERID, OTHER_KEY);
    });
    let conf = setup.conf_file();
    let arguments = ["verify", "-c", path_text(&conf)];
    for (merid, key) in [(MERID, KEY), (OTHER_MERID, OTHER_KEY)] {
        let json = format!("{{\"merid\":\"{merid}\"}}");
        let output = ends_with(0, &arguments, wire::answer(&json, key));
        assert_eq!(printed(&output), json);
    }
    let json = format!("{{\"merid\":\"{MERID}\"}}");
    ends_with(1, &arguments, wire::answer(json, OTHER_KEY));
}

#[test]
fn decode_prints_the_json_without_asking_for_a_key() {
    for case in vectors::load().requests {
        assert_eq!(
            printed(&ends_with(0, &["decode"], &case.form)),
            case.json,
            "{}",
            case.name
        );
        assert_eq!(
            printed(&ends_with(0, &["decode"], &case.text)),
            case.json,
            "{}",
            case.name
        );
    }
    for case in vectors::load()
        .answers
        .iter()
        .filter(|case| case.verdict == "verified")
    {
        assert_eq!(
            printed(&ends_with(0, &["decode"], &case.form)),
            case.json,
            "{}",
            case.name
        );
    }
    ends_with(1, &["decode"], "@@@");
}

#[test]
fn check_shows_what_is_in_force_and_never_a_key() {
    let setup = Setup::new(|conf| {
        conf.merchants = merchant(MERID, KEY) + &merchant(OTHER_MERID, OTHER_KEY);
    });
    let output = ends_with(0, &["check", "-c", path_text(&setup.conf_file())], "");
    let said = text(&output.stdout) + &text(&output.stderr);
    for part in [MERID, OTHER_MERID, &setup.app.to_string()] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert!(!said.contains(KEY) && !said.contains(OTHER_KEY), "{said}");
}

/// What `check` says about these files, which are bad.
#[track_caller]
fn refused_by_check(setup: &Setup) -> String {
    let output = ends_with(78, &["check", "-c", path_text(&setup.conf_file())], "");
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(!said.contains(OTHER_KEY), "{said}");
    said
}

/// A line of output that names the file and has all of these as words of their own.
#[track_caller]
fn one_line_has(said: &str, file: &str, words: &[&str]) {
    let is_there = said.lines().any(|line| {
        line.contains(file)
            && words.iter().all(|word| {
                line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .any(|found| found == *word)
            })
    });
    assert!(is_there, "{words:?} of {file} is not in {said}");
}

#[test]
fn check_names_every_problem_of_a_file_at_once_each_with_its_line() {
    let setup = Setup::new(|_| {});
    let merchants = format!(
        "[[merchant]]\nmerid = \"{MERID}\"\nkey = \"\"\n\n\
         [[merchant]]\nmerid = \"{OTHER_MERID}\"\nkey = \"{OTHER_KEY}\"\ncolour = 1\n\n\
         [end]\nmerchants = 3\n"
    );
    fs::write(&setup.merchants_file, merchants).unwrap();
    let said = refused_by_check(&setup);
    one_line_has(&said, "merchants.toml", &["3", "key"]);
    one_line_has(&said, "merchants.toml", &["8", "unknown"]);
    one_line_has(&said, "merchants.toml", &["11", "merchants"]);

    let conf = fs::read_to_string(setup.conf_file()).unwrap();
    let line_of = |conf: &str, start: &str| -> String {
        let before = conf.lines().take_while(|line| !line.starts_with(start));
        (before.count() + 1).to_string()
    };
    let conf = conf.replace("\ntimeout = \"5s\"", "\ntimeout = \"soon\"");
    let conf = conf.replace("[admin]", "[admin]\ncolour = 1");
    fs::write(setup.conf_file(), &conf).unwrap();
    let said = refused_by_check(&setup);
    one_line_has(
        &said,
        "countersign.toml",
        &["timeout", &line_of(&conf, "timeout")],
    );
    one_line_has(
        &said,
        "countersign.toml",
        &["colour", &line_of(&conf, "colour")],
    );
}

#[test]
fn check_warns_of_weak_keys_by_merchant() {
    let setup = Setup::new(|conf| {
        conf.merchants = merchant("100000000000003", "k") + &merchant(OTHER_MERID, OTHER_KEY);
    });
    let output = ends_with(0, &["check", "-c", path_text(&setup.conf_file())], "");
    let said = text(&output.stdout) + &text(&output.stderr);
    let warning = said
        .lines()
        .any(|line| line.to_lowercase().contains("warning") && line.contains("100000000000003"));
    assert!(warning, "{said}");
}

#[test]
fn run_and_check_refuse_the_same_files_with_78() {
    let bad: [(&str, &str); 7] = [
        ("url = \"http", "url = \"gopher"),
        ("[app]", "[app]\nmax_body = \"much\""),
        ("[app]", "[app]\nlisten_to = 1"),
        (
            "merchants = \"merchants.toml\"",
            "merchants = \"none.toml\"",
        ),
        ("connect_timeout = \"1s\"", "connect_timeout = 1"),
        ("level = \"info\"", "level = \"chatty\""),
        ("[admin]", "[admin"),
    ];
    for (from, to) in bad {
        let setup = Setup::new(|_| {});
        let conf = fs::read_to_string(setup.conf_file()).unwrap();
        assert!(conf.contains(from), "{from}");
        fs::write(setup.conf_file(), conf.replacen(from, to, 1)).unwrap();
        ends_with(78, &["check", "-c", path_text(&setup.conf_file())], "");
        let (code, said) = setup.refused(Duration::from_secs(5));
        assert_eq!(code, Some(78), "{to}: {said}");
        assert!(said.contains("toml"), "{to}: {said}");
    }
    ends_with(78, &["check", "-c", "/nowhere/countersign.toml"], "");
    ends_with(78, &["run", "-c", "/nowhere/countersign.toml"], "");
}

#[test]
fn the_environment_comes_before_the_file() {
    let setup = Setup::new(|_| {});
    let output = run_with_input(
        command()
            .args(["check", "-c", path_text(&setup.conf_file())])
            .env(
                "COUNTERSIGN_PLATFORM_URL",
                "https://from-the-environment.example.com",
            ),
        "",
    );
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(said.contains("from-the-environment.example.com"), "{said}");
}

#[test]
fn a_setting_on_the_command_line_comes_before_environment_and_file() {
    let setup = Setup::new(|_| {});
    let conf = setup.conf_file();
    let output = run_with_input(
        command()
            .args(["check", "-c", path_text(&conf)])
            .args([
                "--set",
                "platform.url=https://from-the-command-line.example.com/a=b",
            ])
            .args([
                "--set",
                "app.max_in_flight=7",
                "--set",
                "platform.timeout=11s",
            ])
            .env(
                "COUNTERSIGN_PLATFORM_URL",
                "https://from-the-environment.example.com",
            ),
        "",
    );
    let said = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for part in [
        "https://from-the-command-line.example.com/a=b",
        "7 calls in flight",
        "whole 11s",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert!(!said.contains("from-the-environment"), "{said}");
}

#[test]
fn a_setting_on_the_command_line_is_in_force() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let setup = Setup::new(|_| {});
    let url = format!("platform.url={}", platform.url());
    let mut child = command()
        .args(["run", "-c", path_text(&setup.conf_file()), "--set", &url])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    eventually("ready", Duration::from_secs(10), || {
        client::fetch(setup.admin, "/readyz").is_ok_and(|answer| answer.status == 200)
    });
    let answer = client::post(setup.app, "/api/query", query_json(MERID, ORDERID));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(platform.count(), 1);
}

#[test]
fn a_wrong_setting_on_the_command_line_is_named() {
    let setup = Setup::new(|_| {});
    let conf = setup.conf_file();
    for (set, code, words) in [
        ("platform.url", 2, &["SECTION.KEY=VALUE"][..]),
        ("platform.timeout=soon", 78, &["--set", "platform.timeout"]),
        ("platform.colour=red", 78, &["--set", "platform.colour"]),
        ("threads=many", 78, &["--set", "threads"]),
    ] {
        for name in ["check", "run"] {
            let arguments = [name, "-c", path_text(&conf), "--set", set];
            let said = text(&ends_with(code, &arguments, "").stderr);
            for word in words {
                assert!(said.contains(word), "{name} {set}: {word} is not in {said}");
            }
        }
    }
}

#[test]
fn a_ca_file_that_holds_no_certificate_is_refused_alike_by_check_and_run() {
    let folder = tempfile::tempdir().unwrap();
    let (missing, junk) = (folder.path().join("none.pem"), folder.path().join("junk"));
    fs::write(&junk, "no certificate").unwrap();
    for ca_file in [missing, junk, folder.path().to_owned()] {
        let setup = Setup::new(|conf| {
            conf.platform = "https://pay.example.com".to_owned();
            conf.ca_file = Some(ca_file.clone());
        });
        let check = ends_with(78, &["check", "-c", path_text(&setup.conf_file())], "");
        let (code, said_by_run) = setup.refused(Duration::from_secs(5));
        assert_eq!(code, Some(78), "{said_by_run}");
        for said in [text(&check.stderr), said_by_run] {
            for part in [path_text(&ca_file), "platform.ca_file"] {
                assert!(said.contains(part), "{part} is not in {said}");
            }
        }
        assert!(check.stdout.is_empty(), "refused, and yet shown");
    }
}

#[test]
fn a_host_that_no_certificate_can_be_for_is_refused_at_the_start() {
    let start = |url: &str| {
        let url = url.to_owned();
        let setup = Setup::new(|conf| conf.platform = url);
        let check = run(&["check", "-c", path_text(&setup.conf_file())], "");
        (setup, check)
    };
    let (setup, check) = start("https://pay_host.example.com");
    assert_eq!(check.status.code(), Some(78));
    let (code, said_by_run) = setup.refused(Duration::from_secs(5));
    assert_eq!(code, Some(78), "{said_by_run}");
    for said in [text(&check.stderr), said_by_run] {
        for part in ["underscore", "platform.url"] {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
    }
    // Without TLS there is no certificate, and a path may have what it likes.
    for url in ["http://pay_host.example.com", "https://example.com/a_b"] {
        assert_eq!(start(url).1.status.code(), Some(0), "{url}");
    }
}

#[test]
fn probe_tells_whether_the_platform_knows_our_key() {
    let probe = |url: String| {
        let setup = Setup::new(|conf| {
            conf.platform = url;
            conf.timeout = "1s";
        });
        let conf = setup.conf_file();
        let output = run(&["probe", "-c", path_text(&conf), "--merid", MERID], "");
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(!said.contains(KEY), "{said}");
        (output.status.code(), said)
    };
    let honest = Platform::honest(&[(MERID, KEY)]);
    let (code, said) = probe(honest.url());
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.is_empty());
    assert!(
        honest.seen().iter().all(|seen| seen.target == "/api/query"),
        "harmless"
    );
    assert_eq!(honest.count(), 1);

    let not_found: fn(&crate::platform::Seen) -> Action = |_| {
        Action::Reply(enveloped(wire::answer(
            r#"{"respcode":"01","respmsg":"订单不存在"}"#,
            KEY,
        )))
    };
    let knows_no_order = Platform::start(not_found);
    let (code, said) = probe(knows_no_order.url());
    assert_eq!(code, Some(0), "no such order, but signed: {said}");

    let knows_another_key = Platform::honest(&[(MERID, OTHER_KEY)]);
    let (code, said) = probe(knows_another_key.url());
    assert_eq!(code, Some(1), "{said}");
    let knows_nobody = Platform::start(|_| Action::Reply(unsigned("96", "商户号不存在")));
    let (code, said) = probe(knows_nobody.url());
    assert_eq!(code, Some(1), "{said}");
    let hangs = Platform::start(|_| Action::Hang);
    let (code, said) = probe(hangs.url());
    assert_eq!(code, Some(1), "{said}");
    let (code, said) = probe("http://127.0.0.1:1".to_owned());
    assert_eq!(code, Some(1), "{said}");
}

#[test]
fn demo_buys_once_and_shows_what_each_step_was_on_the_wire() {
    let folder = tempfile::tempdir().unwrap();
    let output = fs::File::create(folder.path().join("output")).unwrap();
    let mut child = command()
        .args(["demo", "--once"])
        .current_dir(folder.path())
        .stdin(std::process::Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .unwrap();
    let status = exit_within(&mut child, Duration::from_secs(30));
    if status.is_none() {
        child.kill().unwrap();
    }
    let said = fs::read_to_string(folder.path().join("output")).unwrap();
    assert_eq!(status.and_then(|it| it.code()), Some(0), "{said}");
    let steps = steps(&said);
    let with = |label: &str| steps.iter().filter(|it| it.contains_key(label)).count();
    let calls = ["plain", "signed", "answered"].map(with);
    assert_eq!((steps.len(), calls), (7, [5; 3]), "{said}");
    let ends = ["relayed", "verified", "called", "heard", "delivered"].map(with);
    assert_eq!(ends, [3, 2, 3, 3, 3], "{said}");
    let counted = "countersign_oddities_total{kind=\"quoted-amount\"} 1";
    assert!(steps[6]["counted"] == counted, "{said}");
    for (n, step) in steps.iter().enumerate() {
        // The key is changed in the fourth step.
        let key = if n < 3 { DEMO_KEYS[0] } else { DEMO_KEYS[1] };
        shows_its_call(step, key);
        shows_its_result(step, key);
    }
    let folders: Vec<_> = said
        .lines()
        .filter_map(|line| line.strip_prefix("its files"))
        .collect();
    assert_eq!(folders.len(), 1, "{said}");
    assert!(!Path::new(folders[0].trim()).exists(), "left behind");
}

/// The keys of the demo's merchant, before and after its change.
const DEMO_KEYS: [&str; 2] = [
    "demo-key-one-0123456789abcdef0123",
    "demo-key-two-0123456789abcdef0123",
];

/// A step of the demo: what stands behind each label.
type Step<'a> = BTreeMap<&'a str, &'a str>;

/// The numbered steps, each with the labelled lines below its title.
fn steps(said: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    for line in said.lines() {
        if line.starts_with(|c: char| c.is_ascii_digit()) {
            steps.push(Step::new());
        } else if let (Some(step), Some(line)) = (steps.last_mut(), line.strip_prefix("   "))
            && let Some((label, rest)) = line.split_once(' ')
        {
            let twice = step.insert(label, rest.trim_start());
            assert!(twice.is_none(), "{label} stands twice in a step: {said}");
        }
    }
    steps
}

/// A call's plain JSON is what was signed, and what was handed on is what was answered.
#[track_caller]
fn shows_its_call(step: &Step<'_>, key: &str) {
    let Some(plain) = step.get("plain") else {
        return;
    };
    let (path, form) = step["signed"]
        .strip_prefix("POST ")
        .and_then(|line| line.split_once(' '))
        .unwrap_or_else(|| panic!("{step:?}"));
    if path == "/api/query" {
        assert_eq!(wire::request(plain, key), form);
        let signed = step["answered"].strip_prefix("200 ");
        assert_eq!(Some(wire::answer(step["verified"], key).as_str()), signed);
        return;
    }
    assert_eq!(path, "/api/icashier");
    let text = wire::value(form, "req").unwrap();
    assert_eq!(wire::value(form, "sign").unwrap(), wire::sign(&text, key));
    let mut plain: Value = serde_json::from_str(plain).unwrap();
    let mut signed: Value = serde_json::from_slice(&wire::unbase64(&text).unwrap()).unwrap();
    // Where results go is the sidecar's to say.
    for (name, path) in [("backurl", "/notify/back"), ("fronturl", "/notify/front")] {
        let own = signed.as_object_mut().unwrap().remove(name).unwrap();
        assert!(own.as_str().unwrap().ends_with(path), "{own}");
        plain.as_object_mut().unwrap().remove(name);
    }
    assert_eq!(plain, signed);
    let to = step["relayed"].strip_prefix("302 Location: ").unwrap();
    assert_eq!(step["answered"], format!("302 {to}"));
}

/// A result's plain JSON is what the platform signed, and the platform was told so.
#[track_caller]
fn shows_its_result(step: &Step<'_>, key: &str) {
    let Some(called) = step.get("called") else {
        return;
    };
    let (url, form) = called.split_once('?').unwrap();
    assert!(url.starts_with("GET http://") && url.ends_with("/notify/back"));
    assert_eq!(wire::answer(step["delivered"], key), form);
    assert_eq!(step["heard"], "0000");
}
