//! Flags over the environment over the file, and what the defaults are.

use std::path::Path;
use std::time::Duration;

use countersign::config::proxy::ProxySetting;
use countersign::config::settings::{Acknowledge, Confirm, LogFormat};
use countersign::config::{Listen, Problems, Settings};

const PLATFORM: &str = "[platform]\nurl = \"https://file.example.com\"\n";

fn load(text: &str, set: &[(&str, &str)], env: &[(&str, &str)]) -> Result<Settings, Problems> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    std::fs::write(&file, text).unwrap();
    let set: Vec<_> = set
        .iter()
        .map(|(key, text)| (key.to_string(), text.to_string()))
        .collect();
    let env = |name: &str| {
        let found = env.iter().find(|(known, _)| *known == name);
        found.map(|(_, text)| text.to_string())
    };
    Settings::load(&file, &set, &env)
}

fn refusal(text: &str, set: &[(&str, &str)], env: &[(&str, &str)]) -> String {
    load(text, set, env).unwrap_err().to_string()
}

#[test]
fn defaults_are_those_of_the_manual() {
    let settings = load(PLATFORM, &[], &[]).unwrap();
    let folder = settings.path.parent().unwrap();
    assert_eq!(settings.merchants, folder.join("merchants.toml"));
    assert!(settings.threads >= 1);
    assert_eq!(
        settings.app.listen,
        ["127.0.0.1:8080".parse::<Listen>().unwrap()]
    );
    assert_eq!(settings.app.max_body, 65_536);
    assert_eq!(settings.app.max_in_flight, 1_024);
    assert!(settings.app.allow_origins.is_empty());
    assert_eq!(settings.platform.connect_timeout, Duration::from_secs(3));
    assert_eq!(settings.platform.timeout, Duration::from_secs(15));
    assert!(settings.platform.ca_file.is_none() && settings.platform.extra_paths.is_empty());
    assert_eq!(settings.platform.proxy, ProxySetting::FromEnvironment);
    assert!(settings.app.allow_origins.is_empty());
    assert_eq!(settings.inbox.delivery_timeout, Duration::from_secs(10));
    assert!(settings.callbacks.is_none());
    let store = settings.inbox.store.to_string();
    assert_eq!(store, folder.join("countersign.db").to_str().unwrap());
    assert_eq!(settings.inbox.acknowledge, Acknowledge::Stored);
    assert_eq!(settings.inbox.retry_for, Duration::from_secs(72 * 3_600));
    assert_eq!(settings.inbox.keep, Duration::from_secs(30 * 86_400));
    assert_eq!(settings.inbox.confirm, Confirm::Off);
    assert!(settings.inbox.watch_orders);
    assert_eq!(settings.admin.listen, "127.0.0.1:9900".parse().unwrap());
    assert_eq!(settings.log.format, LogFormat::Text);
    assert_eq!(settings.log.level, "info");
}

#[test]
fn flag_beats_environment_beats_file() {
    let url = |set: &[_], env: &[_]| load(PLATFORM, set, env).unwrap().platform.url.to_string();
    let env = ("COUNTERSIGN_PLATFORM_URL", "https://env.example.com");
    let set = ("platform.url", "https://set.example.com");
    assert_eq!(url(&[], &[]), "https://file.example.com/");
    assert_eq!(url(&[], &[env]), "https://env.example.com/");
    assert_eq!(url(&[set], &[env]), "https://set.example.com/");
    let later = ("platform.url", "https://later.example.com");
    assert_eq!(url(&[set, later], &[]), "https://later.example.com/");
}

#[test]
fn override_mends_a_wrong_value_of_the_file() {
    let settings = load(
        "threads = \"many\"\n[platform]\nurl = 1\n",
        &[("platform.url", "http://127.0.0.1:8090")],
        &[("COUNTERSIGN_THREADS", "3")],
    );
    assert_eq!(settings.unwrap().threads, 3);
}

#[test]
fn every_kind_of_value_can_come_from_outside() {
    let settings = load(
        "",
        &[
            ("platform.url", "http://127.0.0.1:8090"),
            ("app.listen", "127.0.0.1:1, unix:app.sock"),
            ("inbox.watch_orders", "false"),
            ("callbacks.tls.cert", "cert.pem"),
        ],
        &[
            ("COUNTERSIGN_APP_MAX_BODY", "1MiB"),
            ("COUNTERSIGN_CALLBACKS_TLS_KEY", "/etc/key.pem"),
            (
                "COUNTERSIGN_CALLBACKS_ALLOW_FROM",
                "203.0.113.0/24,10.1.2.3",
            ),
            ("COUNTERSIGN_LOG_LEVEL", ""),
            ("COUNTERSIGN_NO_SUCH_SETTING", "1"),
        ],
    )
    .unwrap();
    let folder = settings.path.parent().unwrap();
    assert_eq!(
        settings.app.listen[1],
        Listen::Unix(folder.join("app.sock"))
    );
    assert!(!settings.inbox.watch_orders);
    assert_eq!(settings.app.max_body, 1 << 20);
    let callbacks = settings.callbacks.unwrap();
    let tls = callbacks.tls.unwrap();
    assert_eq!(tls.cert, folder.join("cert.pem"));
    assert_eq!(tls.key, Path::new("/etc/key.pem"));
    assert_eq!(callbacks.allow_from[1].to_string(), "10.1.2.3/32");
    assert_eq!(settings.log.level, "info");
}

#[test]
fn problem_of_an_override_names_the_override() {
    let refusal = refusal(
        PLATFORM,
        &[
            ("platform.timeout", "soon"),
            ("platform.timout", "3s"),
            ("app.listen", "here"),
        ],
        &[("COUNTERSIGN_THREADS", "-1")],
    );
    let mut lines: Vec<_> = refusal.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "--set: app.listen[1]: expected an ip address and port, as in \"127.0.0.1:8080\", or \"unix:PATH\"",
            "--set: platform.timeout: expected a time, as in \"500ms\", \"3s\", \"15m\", \"72h\" or \"30d\"",
            "--set: platform.timout: unknown key, did you mean \"platform.timeout\"?",
            "COUNTERSIGN_THREADS: threads: expected a whole number",
        ]
    );
}

#[test]
fn short_timeout_alone_is_fine() {
    let settings = load(PLATFORM, &[("platform.timeout", "1s")], &[]).unwrap();
    assert_eq!(settings.platform.connect_timeout, Duration::from_secs(1));
}

#[test]
fn open_doors_are_called_out() {
    let settings = load(
        "[platform]\nurl = \"http://pay.example.com\"\n",
        &[
            ("app.listen", "0.0.0.0:8080"),
            ("admin.listen", "[::]:9900"),
            ("inbox.keep", "1h"),
        ],
        &[(
            "COUNTERSIGN_ADMIN_TOKEN",
            "3f786850e387550fdab836ed7e6dc881",
        )],
    );
    assert_eq!(
        settings.unwrap().warnings,
        [
            "platform.url: http, so anyone on the way can read and change calls",
            "app.listen: 0.0.0.0:8080 can be reached from other machines",
            "admin.listen: [::]:9900 can be reached from other machines",
            "inbox.keep: shorter than inbox.retry_for",
        ]
    );
}

#[test]
fn store_is_a_file_or_a_database() {
    let store = |text| load(PLATFORM, &[], &[("COUNTERSIGN_INBOX_STORE", text)]);
    let shown = |text| store(text).unwrap().inbox.store.to_string();
    assert!(shown("sqlite:events.db").starts_with('/'));
    assert_eq!(shown("postgres://u:p@h/d"), "postgres://u@h:5432/d");
    assert!(store("sqlite::memory:").is_err());
    assert!(store("events.db").is_err());
}

#[test]
fn the_admin_token_comes_from_a_file_or_the_environment_and_is_never_shown() {
    const TOKEN: &str = "3f786850e387550fdab836ed7e6dc881";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("admin.token");
    std::fs::write(&file, format!("{TOKEN}\r\n")).unwrap();
    let name = file.to_str().unwrap();
    for (set, env) in [
        (vec![("admin.token_file", name)], vec![]),
        (vec![], vec![("COUNTERSIGN_ADMIN_TOKEN", TOKEN)]),
        (vec![], vec![("COUNTERSIGN_ADMIN_TOKEN_FILE", name)]),
    ] {
        let settings = load(PLATFORM, &set, &env).unwrap();
        assert!(settings.admin.token.as_ref().unwrap().is(TOKEN));
        assert!(!format!("{settings:?}").contains("3f78"));
    }
    let file = [("admin.token_file", name)];
    let refusal = refusal(PLATFORM, &file, &[("COUNTERSIGN_ADMIN_TOKEN", "3f78")]);
    assert!(
        refusal.contains("only one of") && !refusal.contains("3f78"),
        "{refusal}"
    );
}

/// Arguments stand in the list of processes.
#[test]
fn no_secret_is_taken_from_the_arguments() {
    for (key, secret, text) in [
        (
            "admin.token",
            "3f786850e387550f",
            "3f786850e387550fdab836ed7e6dc881",
        ),
        ("platform.proxy", "s3cret", "http://u:s3cret@proxy:3128"),
        ("inbox.store", "s3cret", "postgres://u:s3cret@h/d"),
        ("inbox.store", "s3cret", "postgres://u@h/d?password=s3cret"),
    ] {
        let refusal = refusal(PLATFORM, &[(key, text)], &[]);
        assert!(
            refusal.contains(&format!("--set: {key}: expected no ")),
            "{refusal}"
        );
        assert!(!refusal.contains(secret), "{refusal}");
    }
    for text in ["postgres://u@h/d", "sqlite:events.db"] {
        assert!(load(PLATFORM, &[("inbox.store", text)], &[]).is_ok());
    }
}

#[test]
fn a_proxy_s_password_comes_with_its_address_or_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "s3cret\n").unwrap();
    let name = file.to_str().unwrap();
    let proxy = |url: &str, set: &[_]| load(PLATFORM, set, &[("COUNTERSIGN_PLATFORM_PROXY", url)]);
    assert_eq!(
        proxy("none", &[]).unwrap().platform.proxy,
        ProxySetting::Direct
    );
    let from_file = [("platform.proxy_password_file", name)];
    for settings in [
        proxy("http://u:s3cret@proxy:3128", &[]).unwrap(),
        proxy("http://u@proxy:3128", &from_file).unwrap(),
    ] {
        let ProxySetting::Through(proxy) = settings.platform.proxy else {
            panic!("a proxy was named");
        };
        assert_eq!(proxy.credentials.unwrap().password(), "s3cret");
    }
    for (url, said) in [
        ("http://u:p@proxy:1", "no password in platform.proxy"),
        ("http://proxy:1", "with a user"),
        ("none", "with a user"),
    ] {
        let problems = proxy(url, &from_file).unwrap_err().to_string();
        assert!(
            problems.contains("platform.proxy_password_file") && problems.contains(said),
            "{problems}"
        );
    }
    let problems = proxy("socks5://proxy:1", &from_file)
        .unwrap_err()
        .to_string();
    assert_eq!(problems.lines().count(), 1, "{problems}");
}

#[test]
fn an_origin_is_written_as_browsers_send_it() {
    let origins = |text| load(PLATFORM, &[("app.allow_origins", text)], &[]);
    let right = "https://ops.example.com,http://localhost:3000";
    assert_eq!(origins(right).unwrap().app.allow_origins.len(), 2);
    for wrong in [
        "https://ops.example.com/",
        "https://ops.example.com:443",
        "HTTPS://ops.example.com",
        "ops.example.com",
        "null",
        "*",
        "https://ops.example.com/page",
    ] {
        assert!(origins(wrong).is_err(), "{wrong}");
    }
}
