//! A real browser, driven by the WebDriver protocol (W3C) over chromedriver, on this machine's loopback.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::wait;

const WITHIN: Duration = Duration::from_secs(30);
/// One answer takes no longer; pages are small, but the processors are shared.
const PATIENCE: Duration = Duration::from_secs(60);
/// The key of an element in answers (WebDriver, section 12.2).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Keys beyond characters (WebDriver, section 17.4.2).
pub const ENTER: &str = "\u{e007}";
pub const TAB: &str = "\u{e004}";

/// A headless browser with one window.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// One request on a connection of its own; `headers` are whole lines.
pub fn http(port: u16, method: &str, path: &str, headers: &[&str], body: &str) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut lines = vec![format!("{method} {path} HTTP/1.1"), "Connection: close".to_owned()];
    lines.push(format!("Content-Length: {}", body.len()));
    lines.extend(headers.iter().map(|line| (*line).to_owned()));
    if !headers.iter().any(|line| line.to_ascii_lowercase().starts_with("host:")) {
        lines.push(format!("Host: 127.0.0.1:{port}"));
    }
    write!(stream, "{}\r\n\r\n{body}", lines.join("\r\n"))?;
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head)? > 0 {}
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let mut bytes = Vec::new();
    match length {
        // chromedriver keeps connections open, whatever it is asked.
        Some(length) => {
            bytes.resize(length, 0);
            stream.read_exact(&mut bytes)?;
        }
        None => drop(stream.read_to_end(&mut bytes)?),
    }
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok(Answer { status, head, body: String::from_utf8_lossy(&bytes).into_owned() })
}

impl Browser {
    /// Starts one. `None` where there is no chromedriver, after saying so; in continuous integration (`CI` is set) that is a failure.
    pub fn start() -> Option<Self> {
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let driver = match driver {
            Ok(driver) => driver,
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "no browser: chromedriver: {error}");
                eprintln!("SKIPPED: chromedriver: {error}; install chromium and chromium-driver");
                return None;
            }
        };
        let mut browser = Self { driver, port, session: String::new() };
        wait::until("chromedriver", WITHIN, || match http(port, "GET", "/status", &[], "") {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let arguments =
            ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "args": arguments },
        } } });
        let made = browser.ask("POST", "/session", &wanted);
        browser.session = made["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {made}")).to_owned();
        Some(browser)
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        self.try_ask(method, path, body).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn try_ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let body = if method == "GET" { String::new() } else { body.to_string() };
        let answer = http(self.port, method, path, &["Content-Type: application/json"], &body);
        let answer = answer.map_err(|error| error.to_string())?;
        let value: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        if answer.status == 200 { Ok(value["value"].clone()) } else { Err(value["value"]["message"].to_string()) }
    }

    #[track_caller]
    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        self.ask(method, &format!("/session/{}{path}", self.session), body)
    }

    /// Does something with what a selector finds first. An open page may put another in its place meanwhile: a person looks again.
    #[track_caller]
    fn with(&self, selector: &str, what: &str, body: &Value) {
        wait::until(selector, WITHIN, || {
            let found = json!({ "using": "css selector", "value": selector });
            let found = self.try_ask("POST", &format!("/session/{}/element", self.session), &found)?;
            let element = found[ELEMENT].as_str().unwrap_or_default();
            self.try_ask("POST", &format!("/session/{}/element/{element}/{what}", self.session), body).map(drop)
        });
    }

    /// Loads a page.
    #[track_caller]
    pub fn open(&self, url: &str) {
        self.call("POST", "/url", &json!({ "url": url }));
    }

    /// Where it is.
    pub fn url(&self) -> String {
        self.call("GET", "/url", &Value::Null).as_str().unwrap_or_default().to_owned()
    }

    /// What a script returns.
    #[track_caller]
    pub fn run(&self, script: &str) -> Value {
        self.call("POST", "/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// What a script gives to its callback, `arguments[0]`.
    #[track_caller]
    pub fn run_async(&self, script: &str) -> Value {
        self.call("POST", "/execute/async", &json!({ "script": script, "args": [] }))
    }

    /// Waits until a script returns something that is true, and returns it.
    #[track_caller]
    pub fn wait_for(&self, what: &str, within: Duration, script: &str) -> Value {
        wait::until(what, within, || match self.run(script) {
            Value::Null | Value::Bool(false) => Err(self.text().chars().take(600).collect()),
            found => Ok(found),
        })
    }

    /// The text that a person reads.
    pub fn text(&self) -> String {
        self.run("return document.body.innerText").as_str().unwrap_or_default().to_owned()
    }

    /// Clicks what a selector finds first; it must be visible, as for a person.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        self.with(selector, "click", &json!({}));
    }

    /// Types into what a selector finds first.
    #[track_caller]
    pub fn type_into(&self, selector: &str, text: &str) {
        self.with(selector, "value", &json!({ "text": text }));
    }

    /// Presses keys, wherever the focus is.
    pub fn press(&self, keys: &[&str]) {
        let strokes = keys
            .iter()
            .flat_map(|key| [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })]);
        let actions = json!({ "actions": [{ "type": "key", "id": "keys", "actions": strokes.collect::<Vec<_>>() }] });
        self.call("POST", "/actions", &actions);
    }

    /// The size of the window in pixels, and whether the reader prefers dark pages.
    pub fn look(&self, (width, height): (u32, u32), dark: bool) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", &media);
    }

    fn devtools(&self, command: &str, parameters: &Value) {
        self.call("POST", "/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }));
    }

    /// A picture of the window, PNG.
    pub fn picture(&self, path: &Path) {
        let text = self.call("GET", "/screenshot", &Value::Null);
        let bytes = base64(text.as_str().unwrap_or_default());
        std::fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// What the browser complained about since it was last asked.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.call("POST", "/se/log", &json!({ "type": "browser" }));
        let entries = log.as_array().cloned().unwrap_or_default();
        entries.iter().map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            // It ends the browser too; if it cannot, the driver's end does.
            let _ = http(self.port, "DELETE", &format!("/session/{}", self.session), &[], "");
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// RFC 4648, as far as pictures need it.
fn base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (mut bytes, mut held, mut bits) = (Vec::with_capacity(text.len() / 4 * 3), 0u32, 0);
    for value in text.bytes().filter_map(digit) {
        held = held << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_is_read_as_the_rfc_has_it() {
        for (text, bytes) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmFy", "foobar")] {
            assert_eq!(super::base64(text), bytes.as_bytes());
        }
    }
}
