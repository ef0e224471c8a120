//! A real browser: headless Chromium, driven over the WebDriver protocol (W3C) by as much of it as the tests need.

use crate::client::Connection;
use crate::harness::{eventually, exit_within, free_port, is_installed};
use crate::shop::SOON;
use crate::wire;
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What the browser is given to show what is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// The member that a reference to an element stands under (WebDriver, section 12.2).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Of a window on a desk, in points.
const WIDTH: u64 = 1280;

/// One browser at a time: each takes more of the machine than everything else in the suite.
static TURN: Mutex<()> = Mutex::new(());

/// What is missing here to drive a browser, if anything.
pub(crate) fn missing() -> Option<String> {
    let missing = ["chromium", "chromedriver"]
        .into_iter()
        .find(|program| !is_installed(program));
    missing.map(|program| format!("{program} is not installed"))
}

/// The screen that a customer sits at.
#[derive(Clone, Copy)]
pub(crate) enum Screen {
    Desk,
    /// 390 × 844 points, as a common phone has.
    Phone,
}

/// A browser with an empty profile, as far as the first page.
pub(crate) struct Browser {
    driver: SocketAddr,
    process: Child,
    /// The path of its session at the driver.
    session: String,
    screen: Screen,
    profile: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Browser {
    /// Asks for pages in this language (`zh-CN`, `en`).
    pub(crate) fn start(language: &str, screen: Screen) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let profile = tempfile::tempdir().unwrap();
        let driver = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = Command::new("chromedriver");
        for (name, _) in std::env::vars_os() {
            if name
                .to_string_lossy()
                .to_ascii_lowercase()
                .ends_with("_proxy")
            {
                command.env_remove(name);
            }
        }
        let process = command
            .arg(format!("--port={}", driver.port()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut browser = Self {
            driver,
            process,
            session: String::new(),
            screen,
            profile,
            _turn: turn,
        };
        eventually("the driver is ready", PATIENCE, || {
            browser
                .command("GET", "/status", &Value::Null)
                .is_ok_and(|status| status["ready"] == true)
        });
        let wanted = browser.capabilities(language);
        let session = browser.command("POST", "/session", &wanted).unwrap();
        browser.session = format!("/session/{}", session["sessionId"].as_str().unwrap());
        browser
    }

    fn capabilities(&self, language: &str) -> Value {
        let profile = self.profile.path().display();
        let arguments = [
            // The pages are our own, and a container has no namespaces to build a sandbox from.
            "--headless".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-quic".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--no-first-run".to_owned(),
            "--no-proxy-server".to_owned(),
            "--hide-scrollbars".to_owned(),
            format!("--window-size={WIDTH},760"),
            format!("--lang={language}"),
            format!("--accept-lang={language}"),
            format!("--user-data-dir={profile}"),
        ];
        let mut options = json!({ "args": arguments });
        if let Screen::Phone = self.screen {
            let metrics = json!({"width": 390, "height": 844, "pixelRatio": 2.0, "mobile": true, "touch": true});
            options["mobileEmulation"] = json!({ "deviceMetrics": metrics });
        }
        json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
    }

    /// One command; its value, or what the driver says went wrong.
    fn command(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let body = match method {
            "POST" => body.to_string(),
            _ => String::new(),
        };
        // The driver listens to nobody who names it otherwise.
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.driver,
            body.len()
        );
        let answer = Connection::open(self.driver).and_then(|mut c| c.exchange(request));
        let answer = answer.map_err(|error| format!("{method} {path}: {error}"))?;
        let value = answer.json()["value"].take();
        match answer.status {
            200 => Ok(value),
            status => Err(format!("{method} {path}: {status} {value}")),
        }
    }

    fn in_session(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        self.command(method, &format!("{}{path}", self.session), body)
    }

    pub(crate) fn open(&self, url: &str) {
        self.in_session("POST", "/url", &json!({ "url": url }))
            .unwrap();
    }

    pub(crate) fn address(&self) -> String {
        let url = self.in_session("GET", "/url", &Value::Null).unwrap();
        url.as_str().unwrap().to_owned()
    }

    /// Clicks where the element is, as a customer would; a click on what is covered fails.
    #[track_caller]
    pub(crate) fn click(&self, selector: &str) {
        self.at_element(selector, "click", &json!({}));
    }

    /// Types into a field, as a person would.
    #[track_caller]
    pub(crate) fn write(&self, selector: &str, text: &str) {
        self.at_element(selector, "value", &json!({ "text": text }));
    }

    #[track_caller]
    fn at_element(&self, selector: &str, command: &str, body: &Value) {
        let wanted = json!({"using": "css selector", "value": selector});
        let attempt = || {
            let found = self.in_session("POST", "/element", &wanted)?;
            let id = found[ELEMENT].as_str().unwrap();
            self.in_session("POST", &format!("/element/{id}/{command}"), body)
        };
        // A page that loads itself again has no elements for a moment, and then others.
        let is_gone = |error: &str| {
            error.contains("no such element") || error.contains("stale element reference")
        };
        let until = Instant::now() + SOON;
        loop {
            match attempt() {
                Ok(_) => return,
                Err(error) if is_gone(&error) && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) => panic!("{selector}: {error}"),
            }
        }
    }

    /// From here on pages are told that the reader likes them dark.
    pub(crate) fn likes_it_dark(&self) {
        let dark = json!([{"name": "prefers-color-scheme", "value": "dark"}]);
        let command = json!({"cmd": "Emulation.setEmulatedMedia", "params": {"features": dark}});
        self.in_session("POST", "/goog/cdp/execute", &command)
            .unwrap();
    }

    /// From here on pages see the clock of this zone (`Asia/Shanghai`).
    pub(crate) fn lives_in(&self, zone: &str) {
        let command =
            json!({"cmd": "Emulation.setTimezoneOverride", "params": {"timezoneId": zone}});
        self.in_session("POST", "/goog/cdp/execute", &command)
            .unwrap();
    }

    /// Presses the mouse button over an element, or lets go of it.
    pub(crate) fn mouse(&self, selector: &str, action: &str) {
        let place = format!(
            "const element = document.querySelector({});
            element.scrollIntoView({{block: 'center'}});
            const box = element.getBoundingClientRect();
            return [Math.round(box.left + 5), Math.round(box.top + 5)]",
            json!(selector)
        );
        let place = self.script(&place).unwrap();
        let (x, y) = (&place[0], &place[1]);
        let actions = json!({"actions": [{"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"},
            "actions": [{"type": "pointerMove", "x": x, "y": y}, {"type": action, "button": 0}]}]});
        self.in_session("POST", "/actions", &actions).unwrap();
    }

    /// What a script returns.
    pub(crate) fn script(&self, script: &str) -> Result<Value, String> {
        let body = json!({"script": script, "args": []});
        self.in_session("POST", "/execute/sync", &body)
    }

    /// What is to be read on the page; nothing while it changes.
    pub(crate) fn text(&self) -> String {
        let text = self.script("return document.body ? document.body.innerText : ''");
        let text = text.unwrap_or_default();
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the page says all of this.
    #[track_caller]
    pub(crate) fn reads(&self, words: &[&str]) {
        let mut text = String::new();
        let mut address = String::new();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            (text, address) = (self.text(), self.address());
            if words.iter().all(|word| text.contains(word)) {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("not all of {words:?} on {address}:\n{text}");
    }

    /// Nothing stands beside the screen: the page is as wide as the window, and no wider.
    #[track_caller]
    pub(crate) fn fits_its_width(&self) {
        // Not `innerWidth`: a phone zooms out until everything is inside that.
        let widths =
            "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]";
        let widths = self.script(widths);
        let widths = widths.unwrap();
        assert!(
            widths[0].as_u64() <= widths[1].as_u64(),
            "{}: {widths}",
            self.address()
        );
    }

    /// Nothing that a class marks as a number or an amount takes more than one line.
    #[track_caller]
    pub(crate) fn wraps_no_number(&self) {
        let wrapped = "return [...document.querySelectorAll('main td .number, main td .amount, main time, main strong.amount')]
            .filter(it => it.getClientRects().length > 1 || it.offsetHeight > 1.9 * parseFloat(getComputedStyle(it).fontSize))
            .map(it => it.textContent)";
        let wrapped = self.script(wrapped).unwrap();
        assert_eq!(wrapped, json!([]), "{}", self.address());
    }

    /// Keeps a picture of the page in the folder `COUNTERSIGN_SCREENSHOTS`, where that is set; a file's name ends in `.png`
    /// or `.webp`.
    pub(crate) fn picture(&self, name: &str) {
        let Some(folder) = std::env::var_os("COUNTERSIGN_SCREENSHOTS") else {
            return;
        };
        let sizes = "return [innerWidth, Math.ceil(document.querySelector('main').getBoundingClientRect().bottom + scrollY)]";
        let sizes = self.script(sizes).unwrap();
        let height = sizes[1].as_u64().unwrap().clamp(300, 1500);
        let (name, format) = match name.rsplit_once('.') {
            Some((_, "png")) => (name.to_owned(), json!({"format": "png"})),
            Some((_, "webp")) => (name.to_owned(), json!({"format": "webp", "quality": 80})),
            _ => (
                format!("{name}.webp"),
                json!({"format": "webp", "quality": 80}),
            ),
        };
        let mut params = format;
        params["captureBeyondViewport"] = true.into();
        params["clip"] = json!({"x": 0, "y": 0, "width": sizes[0], "height": height, "scale": 1});
        let command = json!({"cmd": "Page.captureScreenshot", "params": params});
        let picture = self
            .in_session("POST", "/goog/cdp/execute", &command)
            .unwrap();
        let bytes = wire::unbase64(picture["data"].as_str().unwrap()).unwrap();
        fs::create_dir_all(&folder).unwrap();
        fs::write(Path::new(&folder).join(name), bytes).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends its browser with the session.
        if !self.session.is_empty() {
            drop(self.in_session("DELETE", "", &Value::Null));
        }
        drop(self.process.kill());
        exit_within(&mut self.process, PATIENCE);
    }
}
