//! What installs and runs the sidecar elsewhere: the systemd unit, the Debian package, the image, the manifests.

use crate::harness::{binary, command, is_installed, skip};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

const UNIT: &str = include_str!("../../conf/systemd/countersign.service");
const DOCKERFILE: &str = include_str!("../../conf/docker/Dockerfile");
const MANIFESTS: &str = include_str!("../../conf/kubernetes/countersign.yaml");

/// The unit in a folder of its own, with the binary under test in place of the installed one.
fn unit() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("countersign.service");
    let binary = binary().display().to_string();
    fs::write(&file, UNIT.replace("/usr/bin/countersign", &binary)).unwrap();
    (folder, file)
}

fn analyze(words: &[&str]) -> Output {
    let (_folder, file) = unit();
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(words).arg(file).output().unwrap()
}

/// The values of a setting of the unit, in their order.
fn settings(name: &str) -> Vec<&'static str> {
    let lines = UNIT.lines().filter_map(|line| line.split_once('='));
    let named = lines.filter(|(found, _)| *found == name);
    named.map(|(_, value)| value).collect()
}

/// The resources of one kind among the manifests.
fn manifests(kind: &str) -> Vec<Value> {
    let mut all: Vec<Value> = serde_saphyr::from_multiple(MANIFESTS).unwrap();
    assert!(all.len() > 3, "{all:?}");
    all.retain(|resource| resource["kind"] == kind);
    all
}

fn sidecar() -> Value {
    let pod = &manifests("StatefulSet")[0]["spec"]["template"]["spec"];
    pod["initContainers"][0].clone()
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let name = "systemd_finds_nothing_wrong_with_the_unit";
    if !is_installed("systemd-analyze") {
        return skip(name, "systemd-analyze is not installed");
    }
    let output = analyze(&["verify"]);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
}

#[test]
fn the_unit_exposes_little() {
    if !is_installed("systemd-analyze") {
        return skip(
            "the_unit_exposes_little",
            "systemd-analyze is not installed",
        );
    }
    // In tenths: 1.5 of 10.
    let output = analyze(&["security", "--offline=yes", "--threshold=15"]);
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(words.contains("Overall exposure level"), "{output:?}");
    assert!(output.status.success(), "{words}");
}

#[test]
fn the_unit_s_command_lines_are_ours() {
    let lines = [settings("ExecStart"), settings("ExecReload")].concat();
    let ours = lines
        .iter()
        .filter_map(|line| line.strip_prefix("/usr/bin/countersign "));
    let ours: Vec<_> = ours.collect();
    assert_eq!(ours.len(), 2, "{lines:?}");
    for words in ours {
        let output = command()
            .args(words.split(' '))
            .arg("--help")
            .output()
            .unwrap();
        assert!(output.status.success(), "{words}: {output:?}");
    }
}

#[test]
fn unit_image_and_pod_run_the_same_thing() {
    let instruction = |name: &str| {
        let mut lines = DOCKERFILE
            .lines()
            .filter_map(|line| line.strip_prefix(name));
        lines.next_back().unwrap().trim().to_owned()
    };
    let words = |name: &str| -> Vec<String> { serde_json::from_str(&instruction(name)).unwrap() };
    let of_the_image = [words("ENTRYPOINT"), words("CMD")].concat().join(" ");
    assert_eq!(settings("ExecStart"), [of_the_image]);
    let user = instruction("USER");
    let (user, group) = user.split_once(':').unwrap();
    let sidecar = sidecar();
    let context = &sidecar["securityContext"];
    assert_eq!(context["runAsUser"].to_string(), user);
    assert_eq!(context["runAsGroup"].to_string(), group);
    assert_eq!(sidecar["args"], Value::Null, "the image's own command");
    let directories = sidecar["volumeMounts"].as_array().unwrap().iter();
    let directories: Vec<_> = directories
        .map(|mount| mount["mountPath"].as_str().unwrap())
        .collect();
    assert_eq!(directories, ["/etc/countersign", "/var/lib/countersign"]);
}

#[test]
fn the_pod_takes_whole_directories_and_no_privilege() {
    let sidecar = sidecar();
    for mount in sidecar["volumeMounts"].as_array().unwrap() {
        assert_eq!(
            mount["subPath"],
            Value::Null,
            "an edit would not arrive: {mount}"
        );
    }
    let context = &sidecar["securityContext"];
    assert_eq!(context["runAsNonRoot"], true);
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["capabilities"]["drop"][0], "ALL");
    assert_eq!(sidecar["restartPolicy"], "Always", "a sidecar");
    for (probe, path) in [
        ("startup", "/readyz"),
        ("readiness", "/readyz"),
        ("liveness", "/livez"),
    ] {
        let probe = &sidecar[format!("{probe}Probe")]["httpGet"];
        assert_eq!(
            (&probe["path"], &probe["port"]),
            (&path.into(), &"admin".into())
        );
    }
    let replicas = &manifests("StatefulSet")[0]["spec"]["replicas"];
    assert_eq!(*replicas, 1, "a store has one writer");
}

#[test]
fn the_manifests_hold_against_the_schemas() {
    let name = "the_manifests_hold_against_the_schemas";
    if !is_installed("kubernetes-validate") {
        return skip(name, "kubernetes-validate is not installed");
    }
    let mut validate = Command::new("kubernetes-validate");
    validate.args(["--strict", "conf/kubernetes/countersign.yaml"]);
    let output = validate.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

const TOKEN: &str = "3f786850e387550fdab836ed7e6dc881";
const KEY: (&str, &str) = ("100000000000001.key", "7d0f1c0a9be84e6e8e1f6f6a2c5b9d31\n");

/// Writes what a volume's sources hold, and says what `check` makes of it where the container is given this token.
fn checked(files: &[(&str, &str)], token: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let settings = folder.path().join("countersign.toml");
    let mut check = command();
    check.env("COUNTERSIGN_ADMIN_TOKEN", token);
    check
        .args(["check", "--files", "-c"])
        .arg(settings)
        .output()
        .unwrap()
}

#[test]
fn the_pod_s_configuration_holds_with_the_ports_that_it_opens() {
    let map = manifests("ConfigMap").remove(0);
    let map = map["data"].as_object().unwrap().iter();
    let map: Vec<_> = map
        .map(|(name, text)| (name.as_str(), text.as_str().unwrap()))
        .collect();
    let output = checked(&[&map[..], &[KEY]].concat(), TOKEN);
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for port in sidecar()["ports"].as_array().unwrap() {
        let listener = format!(" 0.0.0.0:{}", port["containerPort"]);
        assert!(shown.contains(&listener), "{listener}: {shown}");
    }
    assert!(
        shown.contains("/var/lib/countersign/"),
        "the volume's own: {shown}"
    );
    // As it stands in the manifests, neither secret opens anything.
    let secret = manifests("Secret").remove(0);
    let unfilled = |name| secret["stringData"][name].as_str().unwrap();
    for (key, token, missing) in [
        (KEY.1, unfilled("admin-token"), "admin.token"),
        (unfilled(KEY.0), TOKEN, "key_file"),
    ] {
        let output = checked(&[&map[..], &[(KEY.0, key)]].concat(), token);
        assert_eq!(output.status.code(), Some(78), "{missing}: {output:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains(missing),
            "{output:?}"
        );
    }
}

#[test]
fn a_package_that_nobody_configured_says_what_is_missing() {
    let settings = include_str!("../../conf/debian/countersign.toml");
    let merchants = include_str!("../../conf/debian/merchants.toml");
    let files = [
        ("countersign.toml", settings),
        ("merchants.toml", merchants),
    ];
    let output = checked(&files, TOKEN);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("platform.url: expected"));
    // What stands there behind a # is right once it is taken away.
    let on = |text: &str| {
        let lines = text.lines().map(|line| match line.strip_prefix("# ") {
            Some(setting) if setting.starts_with('[') || setting.contains(" = ") => setting,
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    let (settings, merchants) = (on(settings), on(merchants));
    let files = [
        ("countersign.toml", settings.as_str()),
        ("merchants.toml", merchants.as_str()),
        KEY,
    ];
    let output = checked(&files, TOKEN);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_package_s_files_are_there() {
    let manifest: toml::Table = include_str!("../../Cargo.toml").parse().unwrap();
    let package = &manifest["package"]["metadata"]["deb"];
    let assets = package["assets"].as_array().unwrap();
    assert!(assets.len() > 6, "{assets:?}");
    for asset in assets {
        let from = asset[0].as_str().unwrap();
        let built = from.starts_with("target/");
        assert!(
            built || from.contains('*') || Path::new(from).is_file(),
            "{from}"
        );
    }
    for file in package["conf-files"].as_array().unwrap() {
        let name = file.as_str().unwrap().rsplit('/').next().unwrap();
        assert!(Path::new("conf/debian").join(name).is_file(), "{name}");
    }
}

#[test]
fn the_package_s_scripts_are_sound_shell() {
    for name in [
        "conf/debian/postinst",
        "conf/debian/prerm",
        "conf/debian/postrm",
        "tests/deb",
    ] {
        let shell = if name == "tests/deb" { "bash" } else { "sh" };
        let output = Command::new(shell).arg("-n").arg(name).output().unwrap();
        assert!(output.status.success(), "{name}: {output:?}");
        assert!(
            fs::read_to_string(name).unwrap().contains("set -e"),
            "{name}"
        );
    }
}

#[test]
fn the_debian_package_installs_runs_and_leaves() {
    let name = "the_debian_package_installs_runs_and_leaves";
    if std::env::var_os("COUNTERSIGN_TEST_DEB").is_none() {
        let reason = "it installs a package as root and takes a release build; COUNTERSIGN_TEST_DEB=1 or tests/deb does it";
        return skip(name, reason);
    }
    let output = Command::new("tests/deb").output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
