//! The ten minutes with a configuration of one's own: each line typed in a folder of its own, on free ports.

use super::markdown::root;
use super::{Class, Exchange, exchanges, of, the};
use crate::harness::{binary, eventually, free_port, is_installed, skip};
use crate::session::lasting;
use crate::shop::SOON;
use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// The ports that the page names.
const PORTS: [&str; 5] = ["8080", "8081", "8090", "9000", "9900"];

/// A reader's shell: its folder, the variables that were exported, and what runs in the background.
struct Shell {
    folder: TempDir,
    variables: Vec<(String, String)>,
    ports: [(&'static str, String); PORTS.len()],
    background: Vec<Child>,
}

impl Drop for Shell {
    fn drop(&mut self) {
        for child in &mut self.background {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Shell {
    fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The examples, as in the source tree.
        std::os::unix::fs::symlink(root().join("conf"), folder.path().join("conf")).unwrap();
        Self {
            folder,
            variables: Vec::new(),
            ports: PORTS.map(|port| (port, free_port().to_string())),
            background: Vec::new(),
        }
    }

    /// Puts our ports in place of the page's.
    fn here(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (documented, actual) in &self.ports {
            text = text.replace(&format!(":{documented}"), &format!(":{actual}"));
            text = text.replace(&format!("serve {documented}"), &format!("serve {actual}"));
        }
        text
    }

    fn command(&self, line: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let ours = binary().parent().unwrap().display().to_string();
        let mut command = Command::new("sh");
        command
            .args(["-c", &self.here(line)])
            .current_dir(&self.folder)
            .env("PATH", format!("{ours}:{path}"))
            .env("ORDERS", self.folder.path())
            .envs(self.variables.clone())
            .stdin(Stdio::null());
        command
    }

    /// Types a line of the setup.
    fn type_in(&mut self, line: &str) {
        if let Some(exported) = line.strip_prefix("export ") {
            let pairs = exported
                .split(' ')
                .map(|pair| pair.split_once('=').unwrap());
            let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
            self.variables.extend(pairs);
            return;
        }
        if let Some(line) = line.strip_suffix(" &") {
            let listen = match line.contains(" sandbox ") {
                true => " --listen 127.0.0.1:8090",
                false => "",
            };
            // `exec`, so that the shell's id is the program's.
            let mut command = self.command(&format!("exec {line}{listen}"));
            let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
            self.background.push(quiet.spawn().unwrap());
            return;
        }
        let output = self.command(line).output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        for name in ["pay/countersign.toml", "pay/merchants.toml"] {
            let file = self.folder.path().join(name);
            let text = fs::read_to_string(&file).unwrap();
            fs::write(&file, self.here(&text)).unwrap();
        }
    }

    /// Types a command, and returns the first part of its output that is missing; ids differ each time.
    fn missing(&self, exchange: &Exchange) -> Option<String> {
        let output = self.command(&exchange.command).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let mut rest = printed.as_str();
        let is_id = |word: &str| word.len() == 32 && word.bytes().all(|b| b.is_ascii_hexdigit());
        for line in &exchange.output {
            let words = line
                .split(' ')
                .map(|word| if is_id(word) { "…" } else { word });
            let line = words.collect::<Vec<_>>().join(" ");
            for part in lasting(&self.here(&line)) {
                match rest.find(&part) {
                    Some(at) => rest = &rest[at + part.len()..],
                    None => return Some(format!("{part:?} in {printed:?}")),
                }
            }
        }
        None
    }
}

#[test]
fn the_ten_minutes_are_what_the_page_shows() {
    let name = "the_ten_minutes_are_what_the_page_shows";
    for tool in ["curl", "python3"] {
        if !is_installed(tool) {
            return skip(name, &format!("{tool} is not installed"));
        }
    }
    let mut shell = Shell::open();
    for line in the(Class::TourSetup).lines {
        shell.type_in(&line);
    }
    assert_eq!(shell.background.len(), 3);
    for (port, actual) in &shell.ports {
        eventually(port, 2 * SOON, || {
            TcpStream::connect(format!("127.0.0.1:{actual}")).is_ok()
        });
    }
    let blocks = of(Class::Tour);
    let typed: Vec<_> = blocks
        .iter()
        .flat_map(|(_, block)| exchanges(block))
        .collect();
    assert!(typed.len() >= 9, "{} commands", typed.len());
    for exchange in typed {
        let command = &exchange.command;
        // Everything else shows what comes a moment later, and may be typed again.
        let once = ["icashier", "result=", "replay", "echo", "sleep", "rotate"];
        if once.iter().any(|word| command.contains(word)) {
            assert_eq!(shell.missing(&exchange), None, "{command}");
        } else {
            eventually(command, SOON, || shell.missing(&exchange).is_none());
        }
    }
}
