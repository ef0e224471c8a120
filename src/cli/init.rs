//! `countersign init`: a starter configuration, which `check` passes as it is where the platform is a sandbox.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::failure::Failure;
use super::schema;
use crate::cli::print::say;
use crate::config::public_keys::{DEMO_KEYS, DEMO_MERID};
use crate::config::web_url;
use crate::config::web_url::Tail;

/// The annotated example, with every setting and its default.
const SETTINGS: &str = include_str!("../../conf/countersign.toml");
/// Its one line without a default.
const URL: &str = "url = \"https://pay.example.com\"";
/// The address of the callbacks as a platform elsewhere reaches it, which only an operator knows.
const PUBLIC_URL: &str = "# public_url = \"https://shop.example.com/cashier\"";
/// The same for a platform on this machine, so that the sidecar fills in `backurl` from the first submit on.
const OWN_URL: &str = "public_url = \"http://127.0.0.1:8081\"";

#[derive(Args)]
pub(super) struct InitCommand {
    /// The folder of the new files; it is created where it does not exist
    #[arg(default_value = ".", value_name = "DIR")]
    folder: PathBuf,
    /// The platform; the default is where `countersign sandbox` listens
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8090")]
    platform: String,
    /// The merchant's number; the default is the one that the sandbox knows
    #[arg(long, default_value = DEMO_MERID)]
    merid: String,
    /// The app's address for results
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:9000/pay/back"
    )]
    back: String,
}

/// Writes both files, and the key's where it is the sandbox's; replaces no file that is there.
pub(super) fn init(args: &InitCommand) -> Result<(), Failure> {
    let platform = url("--platform", &args.platform, Tail::Nothing)?;
    url("--back", &args.back, Tail::Query)?;
    let is_number = |b: u8| b.is_ascii_alphanumeric();
    if args.merid.is_empty() || args.merid.len() > 64 || !args.merid.bytes().all(is_number) {
        let message = "--merid: expected the platform's number, 1 to 64 letters and digits";
        return Err(Failure::Usage(message.to_owned()));
    }
    let key_name = format!("{}.key", args.merid);
    let is_sandbox = web_url::is_loopback(&platform) && args.merid == DEMO_MERID;
    fs::create_dir_all(&args.folder).map_err(|error| failed(&args.folder, &error))?;
    let settings = args.folder.join("countersign.toml");
    write_new(&settings, 0o644, &settings_text(&platform, &args.platform))?;
    let merchants = args.folder.join("merchants.toml");
    write_new(&merchants, 0o600, &merchants_text(args, &key_name))?;
    write_new(
        &args.folder.join("settings.schema.json"),
        0o644,
        schema::SETTINGS,
    )?;
    write_new(
        &args.folder.join("merchants.schema.json"),
        0o644,
        schema::MERCHANTS,
    )?;
    let key = args.folder.join(&key_name);
    if is_sandbox {
        write_new(&key, 0o600, &format!("{}\n", DEMO_KEYS[0]))?;
        say!("then, in two terminals:");
        say!("  countersign sandbox");
    } else {
        say!(
            "then write the platform's key, as text on one line, to {} (chmod 600), set callbacks.public_url to the \
             address by which the platform reaches this machine, and:",
            key.display()
        );
        say!("  countersign check -c {}", settings.display());
    }
    say!("  countersign run -c {}", settings.display());
    Ok(())
}

fn url(option: &str, text: &str, tail: Tail) -> Result<url::Url, Failure> {
    web_url::parse(text, tail).map_err(|why| Failure::Usage(format!("{option}: {why}")))
}

fn settings_text(platform: &url::Url, as_given: &str) -> String {
    // As TOML writes it: a URL may hold a quote, though a parsed one does not begin with it.
    let text = SETTINGS.replacen("schema/settings.json", "settings.schema.json", 1);
    let text = text.replacen(URL, &format!("url = {}", toml::Value::from(as_given)), 1);
    match web_url::is_loopback(platform) {
        true => text.replacen(PUBLIC_URL, OWN_URL, 1),
        false => text,
    }
}

fn merchants_text(args: &InitCommand, key_name: &str) -> String {
    format!(
        "#:schema merchants.schema.json\n\n\
         # The merchants and their keys. Read again whenever it or a key file changes; a file with any problem leaves the\n\
         # last good one in force.\n\n\
         [[merchant]]\n\
         merid = {}\n\
         # One line: the key that the platform assigned. Keep it readable for the sidecar's user alone.\n\
         key_file = {}\n\
         # The app's address for results. Let only this machine reach it, or set back_token or deliver = \"envelope\".\n\
         back = {}\n",
        toml::Value::from(args.merid.as_str()),
        toml::Value::from(key_name),
        toml::Value::from(args.back.as_str()),
    )
}

fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| failed(path, &error))?;
    say!("wrote {}", path.display());
    Ok(())
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    let path = path.display();
    match error.kind() {
        ErrorKind::AlreadyExists => Failure::Usage(format!(
            "{path} exists, and init replaces no file: name another folder, or remove it first"
        )),
        _ => Failure::No(format!("{path}: {error}")),
    }
}
