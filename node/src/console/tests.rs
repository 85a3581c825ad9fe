//! The console's door and pages over a whole coordinator on 127.0.0.1, by raw requests; the browser's own test is end to end.

use std::path::PathBuf;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::post;
use hyper_util::service::TowerToHyperService;
use reqwest::{Client as Http, Method, RequestBuilder, Response, StatusCode};
use tokio_util::sync::CancellationToken;

use super::guard::Fields;
use super::{Keys, Options, bind, bounded};
use crate::cli;
use crate::coordinator::client::Client;
use crate::coordinator::directory::Directory;
use crate::coordinator::run::{self, Running};
use crate::coordinator::setup;

const PASSPHRASE: &str = "correct horse battery staple";
const RELEASE: &str = r#"
product = "org.example.<b>tool"
version = "1"
title = "Tool <script>alert(1)</script> \u202E 東京 🚀"
classification = "update"
severity = "critical"
[[payload]]
path = "tool.bin"
[[detect]]
file = "/opt/tool"
payload = "tool.bin"
[install]
files = [{ payload = "tool.bin", path = "/opt/tool" }]
"#;

struct Bench {
    dir: tempfile::TempDir,
    running: Running,
    http: Http,
    base: String,
    link: String,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Bench {
    /// A coordinator with encrypted keys beside it, a group without machines, and a console.
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let (data, keys) = (dir.path().join("d"), dir.path().join("keys"));
        let passphrase = crate::coordinator::keys::Passphrase::new(PASSPHRASE).unwrap();
        let offline = setup::Offline { dir: &keys, passphrase: &passphrase, holders: &[] };
        setup::init(&data, Some(offline)).unwrap();
        let options = run::Options::on_loopback();
        let directory = Directory::existing(&data).unwrap();
        let running = run::start(directory, options, CancellationToken::new()).await;
        let running = running.unwrap_or_else(|error| panic!("{error}"));
        let client = Client::of(&data).unwrap_or_else(|error| panic!("{error}"));
        let options = Options {
            listen: "127.0.0.1:0".parse().unwrap(),
            link: Some(data.join("console-link")),
            keys: Keys { dir: Some(keys), anchor: None },
            place: "test".to_owned(),
        };
        let bound = bind(client, options).await.unwrap_or_else(|error| panic!("{error}"));
        let link = bound.link();
        let base = link.split("/enter").next().unwrap().to_owned();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(bound.serve(stop.clone()));
        let http = Http::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { dir, running, http, base, link, stop, serving }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("d")
    }

    fn token(&self) -> String {
        Directory::new(&self.data()).token().unwrap().to_string()
    }

    async fn verb(&self, args: &[&str]) {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let data = self.data().display().to_string();
        let work = move || {
            let mut all: Vec<&str> = args.iter().map(String::as_str).collect();
            all.extend(["--data-dir", &data]);
            cli::try_run(&all)
        };
        tokio::task::spawn_blocking(work).await.unwrap().unwrap_or_else(|error| panic!("{error}"));
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.http.request(Method::GET, format!("{}{path}", self.base))
    }

    /// Comes in by the link; returns the session's cookie and form token.
    async fn enter(&self) -> (String, String) {
        let answer = self.http.get(&self.link).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
        for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
            assert!(cookie.contains(part), "{cookie}");
        }
        let cookie = cookie.split(';').next().unwrap().to_owned();
        let page = self.page(&cookie, "/rollouts").await;
        let token = page.split("name=\"token\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        (cookie, token)
    }

    async fn page(&self, cookie: &str, path: &str) -> String {
        let answer = self.get(path).header("cookie", cookie).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.text().await.unwrap()
    }

    async fn act(&self, cookie: &str, path: &str, fields: &[(&str, &str)]) -> Response {
        let request = self.http.post(format!("{}{path}", self.base)).header("cookie", cookie);
        let request = request.header("origin", &self.base).header("content-type", "application/x-www-form-urlencoded");
        let pairs = fields.iter().map(|(name, value)| super::show::href(&[], &[(name, value)]));
        let body: Vec<String> = pairs.map(|pair| pair.trim_start_matches("/?").to_owned()).collect();
        request.body(body.join("&")).send().await.unwrap()
    }

    /// The page that an answer leads to; the answer itself where it leads nowhere.
    async fn follow(&self, cookie: &str, answer: Response) -> Response {
        let Some(place) = answer.headers().get("location") else { return answer };
        self.get(place.to_str().unwrap()).header("cookie", cookie).send().await.unwrap()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
        self.running.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_browser_with_the_link_comes_in_and_only_its_own_pages_change_anything() {
    let bench = Bench::start().await;
    let port = bench.base.rsplit(':').next().unwrap().to_owned();
    // Without a session: nothing but that it is there.
    for path in ["/", "/devices", "/devices/00", "/audit.csv", "/events", "/api/v1/status", "/metrics", "/nothing"] {
        assert_eq!(bench.get(path).send().await.unwrap().status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    for path in ["/health", "/ready", "/assets/console.css"] {
        assert_eq!(bench.get(path).send().await.unwrap().status(), StatusCode::OK, "{path}");
    }
    for secret in ["", "?secret=", "?secret=00", "?secret=%00"] {
        assert_eq!(bench.get(&format!("/enter{secret}")).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    }
    let kept = std::fs::read_to_string(bench.data().join("console-link")).unwrap();
    assert_eq!(kept.trim(), bench.link);
    let head = bench.http.head(&bench.link).send().await.unwrap();
    assert_eq!((head.status(), head.headers().contains_key("set-cookie")), (StatusCode::METHOD_NOT_ALLOWED, false));
    let (cookie, token) = bench.enter().await;
    assert_eq!(bench.http.get(&bench.link).send().await.unwrap().status(), StatusCode::UNAUTHORIZED, "it counts once");
    let next = std::fs::read_to_string(bench.data().join("console-link")).unwrap();
    assert!(next != kept && next.starts_with(&bench.base), "the next link is another: {next}");

    // Another name for this address is another page's trick (DNS rebinding).
    for host in
        ["example.org".to_owned(), format!("example.org:{port}"), "127.0.0.1:1".to_owned(), "127.0.0.1".to_owned()]
    {
        let answer = bench.get("/").header("host", &host).header("cookie", &cookie).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::MISDIRECTED_REQUEST, "{host}");
    }
    let localhost = bench.get("/").header("host", format!("localhost:{port}")).header("cookie", &cookie);
    let answer = localhost.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let policy = answer.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");

    let own = format!("127.0.0.1:{port}");
    let doubled = bench.get("/").header("host", &own).header("host", "example.org").header("cookie", &cookie);
    assert_eq!(doubled.send().await.unwrap().status(), StatusCode::BAD_REQUEST);

    // A change needs its own origin and its session's form token.
    let hold = |origin: Option<&str>, site: Option<&str>, token: &str| {
        let body = format!("on=true&token={token}");
        let mut request = bench.http.post(format!("{}/act/hold", bench.base)).header("cookie", &cookie).body(body);
        request = request.header("content-type", "application/x-www-form-urlencoded");
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        if let Some(site) = site {
            request = request.header("sec-fetch-site", site);
        }
        async move { request.send().await.unwrap().status() }
    };
    assert_eq!(hold(None, None, &token).await, StatusCode::FORBIDDEN, "no origin");
    assert_eq!(hold(Some("http://example.org"), None, &token).await, StatusCode::FORBIDDEN);
    assert_eq!(hold(Some("null"), None, &token).await, StatusCode::FORBIDDEN);
    assert_eq!(hold(Some(&bench.base), Some("cross-site"), &token).await, StatusCode::FORBIDDEN);
    assert_eq!(hold(Some(&bench.base), Some("same-origin"), "00").await, StatusCode::FORBIDDEN);
    let client = Client::of(&bench.data()).unwrap_or_else(|error| panic!("{error}"));
    let holds = async || client.status(&Default::default()).await.unwrap_or_else(|error| panic!("{error}")).holds.len();
    for back in ["/\\evil.example", "/\t/evil.example", "/rollouts\r\nx: y", "//evil.example"] {
        let answer = bench.act(&cookie, "/act/hold", &[("on", "true"), ("token", &token), ("back", back)]).await;
        assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY, "{back:?}");
        assert!(!answer.headers().contains_key("location"), "{back:?}");
    }
    assert_eq!(holds().await, 0, "nothing of that has changed anything");
    assert_eq!(hold(Some(&bench.base), Some("same-origin"), &token).await, StatusCode::SEE_OTHER);
    assert_eq!(holds().await, 1);
    assert_eq!(hold(Some(&bench.base), None, &token).await, StatusCode::CONFLICT, "it is on hold already");

    let left = bench.act(&cookie, "/act/leave", &[("token", &token)]).await;
    assert_eq!(left.status(), StatusCode::SEE_OTHER);
    let after = bench.get("/").header("cookie", &cookie).send().await.unwrap().status();
    assert_eq!(after, StatusCode::UNAUTHORIZED, "the session has ended");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_previewed_is_signed_with_the_passphrase_and_nothing_else() {
    let bench = Bench::start().await;
    let write = |name: &str, bytes: &[u8]| {
        let path = bench.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let passphrase = write("passphrase", PASSPHRASE.as_bytes());
    let keys = bench.dir.path().join("keys").display().to_string();
    write("tool.bin", b"a tool");
    let file = write("tool.toml", RELEASE.as_bytes());
    bench.verb(&["publish", &file, "--keys-dir", &keys, "--passphrase-file", &passphrase]).await;
    bench.verb(&["coordinator", "invite", "--group", "office", "--site", "a/b <c>"]).await;
    let client = Client::of(&bench.data()).unwrap_or_else(|error| panic!("{error}"));
    let catalog = client.catalog().await.unwrap_or_else(|error| panic!("{error}"));
    let release = catalog.releases.first().unwrap().release.to_string();
    let (cookie, token) = bench.enter().await;

    // Every page stands, and what others wrote is text.
    let update = format!("/updates/{release}");
    for path in [
        "/",
        "/updates",
        &update,
        "/rollouts",
        "/devices",
        "/devices?standing=unknown&sort=seen&descending=true",
        "/sites",
        "/sites/a%2Fb%20%3Cc%3E",
        "/groups",
        "/repositories",
        "/alarms",
        "/alarms?all=true",
        "/audit",
        "/audit?topic=login&q=browser&before=999",
        "/decisions.csv",
        "/decisions.csv?topic=approval",
        "/reports",
        "/reports?show=rollout&since=30d&release=org.example.%3Cb%3Etool%401",
        "/reports?show=vulnerable",
        "/reports?show=savings&group=office",
        "/reports?show=approvals",
        "/reports.csv?show=approvals",
        "/reports.json?show=compliance",
        "/search?q=tool",
        "/updates?from=repositories",
        "/devices.csv",
        "/devices.json",
        "/audit.csv",
    ] {
        let page = bench.page(&cookie, path).await;
        let is_html = !path.contains(".csv") && !path.contains(".json");
        assert!(!page.contains('\u{202e}') || path.contains(".json"), "{path}");
        assert!(!is_html || !page.contains("<script>alert") && !page.contains("<b>tool"), "{path}");
    }
    for path in [
        "/devices?standing=fine",
        "/devices?page=x",
        "/audit?topic=nothing",
        "/devices/nobody",
        "/updates/nothing",
        "/sites/nowhere",
        "/reports?show=all",
        "/reports?since=tomorrow",
        "/reports?group=none",
    ] {
        let status = bench.get(path).header("cookie", &cookie).send().await.unwrap().status();
        assert!(status.is_client_error(), "{path}: {status}");
    }

    let page = bench.page(&cookie, &update).await;
    let carried = page.split("name=\"shown\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(carried.starts_with("org.example.") && carried.ends_with("tool 1"), "{carried}");
    let shown = std::cell::RefCell::new("org.example.harmless 1.0".to_owned());
    let decide = |intent: &'static str, seen: &'static str| {
        let fields = [
            ("token", token.clone()),
            ("release", release.clone()),
            ("shown", shown.borrow().clone()),
            ("group", "office".to_owned()),
            ("seen.office", seen.to_owned()),
            ("intent", intent.to_owned()),
            ("ring", "10%, 100%+1d".to_owned()),
            ("allow_empty", "true".to_owned()),
        ];
        let (bench, cookie) = (&bench, &cookie);
        async move {
            let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            bench.follow(cookie, bench.act(cookie, "/act/draft", &fields).await).await
        }
    };
    assert_eq!(decide("approve", "3").await.status(), StatusCode::CONFLICT, "a page that has seen something else");
    // What was typed is there again beside the reason for which it was refused.
    let wrong = [
        ("token", token.as_str()),
        ("release", release.as_str()),
        ("group", "office"),
        ("intent", "approve"),
        ("ring", "ten percent, \"100%+1d"),
        ("note", "<i>first</i> try"),
    ];
    let again = bench.follow(&cookie, bench.act(&cookie, "/act/draft", &wrong).await).await.text().await.unwrap();
    assert!(again.contains("role=\"alert\"") && again.contains("ten percent"), "{again}");
    assert!(again.contains("value=\"ten percent, &#34;100%+1d\""), "{again}");
    assert!(again.contains("value=\"&#60;i&#62;first&#60;/i&#62; try\""), "{again}");
    // The page that was decided on has put another's name to the release.
    let misled = decide("approve", "0").await.text().await.unwrap();
    assert!(misled.contains("and the document is about") && !misled.contains("/act/sign"), "{misled}");
    shown.replace("org.example.<b>tool 1".to_owned());
    let preview = decide("approve", "0").await;
    assert_eq!(preview.status(), StatusCode::OK);
    let address = preview.url().path().to_owned();
    let preview = preview.text().await.unwrap();
    assert_eq!(bench.page(&cookie, &address).await, preview, "it can be looked at again");
    assert!(preview.contains("type=\"password\"") && preview.contains("10 % after 0 s"), "{preview}");
    let draft = preview.split("name=\"draft\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let other = decide("approve", "0").await.text().await.unwrap();
    let other = other.split("name=\"draft\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let sign = async |draft: &str, passphrase: &str| {
        bench.act(&cookie, "/act/sign", &[("token", &token), ("draft", draft), ("passphrase", passphrase)]).await
    };
    let wrong = sign(&draft, "wrong horse battery").await;
    assert_eq!(wrong.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert!(wrong.text().await.unwrap().contains("wrong passphrase"));
    let none = sign(&draft, "").await.text().await.unwrap();
    assert!(none.contains("give their passphrase"), "{none}");
    let approvals = async || client.catalog().await.unwrap_or_else(|error| panic!("{error}")).approvals;
    assert!(approvals().await.is_empty());
    assert_eq!(sign(&draft, PASSPHRASE).await.status(), StatusCode::SEE_OTHER);
    let in_force = approvals().await;
    assert_eq!((in_force.len(), in_force[0].version, in_force[0].rings.rings.len()), (1, 1, 2));
    for answer in [sign(&draft, PASSPHRASE).await, bench.get(&address).header("cookie", &cookie).send().await.unwrap()]
    {
        assert_eq!(answer.status(), StatusCode::CONFLICT);
        let text = answer.text().await.unwrap();
        assert!(text.contains("signed already") && !text.contains("othing was signed"), "{text}");
    }
    assert_eq!(sign(&other, PASSPHRASE).await.status(), StatusCode::CONFLICT, "somebody has decided since");
    assert_eq!(approvals().await[0].version, 1);
    assert_eq!(decide("decline", "0").await.status(), StatusCode::CONFLICT, "the page is old");
    let audit = bench.page(&cookie, "/audit").await;
    assert!(audit.contains("was approved for group office") && audit.contains("approver"), "{audit}");
    let logins = bench.page(&cookie, "/audit?topic=login").await;
    assert!(logins.contains("a browser was let into the console") && logins.contains("admin socket, user"), "{logins}");
    let csv = bench.page(&cookie, "/decisions.csv?topic=approval").await;
    assert_eq!(csv.lines().count(), 2, "{csv}");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_get_tags_problems_and_figures() {
    let bench = Bench::start().await;
    let token = bench.token();
    let ask = |path: &str| bench.get(path).bearer_auth(&token);
    let first = ask("/api/v1/catalog").send().await.unwrap();
    assert_eq!(first.status(), StatusCode::OK);
    let tag = first.headers()["etag"].clone();
    let same = ask("/api/v1/catalog").header("if-none-match", &tag).send().await.unwrap();
    assert_eq!((same.status(), same.bytes().await.unwrap().len()), (StatusCode::NOT_MODIFIED, 0));
    bench.verb(&["group", "add", "pilots"]).await;
    let changed = ask("/api/v1/catalog").header("if-none-match", &tag).send().await.unwrap();
    assert_eq!(changed.status(), StatusCode::OK, "it has changed");
    let refused = ask("/api/v1/machine?device=nobody").send().await.unwrap();
    assert_eq!(refused.headers()["content-type"], "application/problem+json");
    let problem: serde_json::Value = refused.json().await.unwrap();
    assert_eq!(problem["status"], 422);
    assert!(problem["detail"].as_str().unwrap().contains("nobody"), "{problem}");
    for path in ["/api/v1/%2e%2e/x", "/api/v1/a%3Fb", "/api/v1/../admin/v1/status"] {
        let status = ask(path).send().await.unwrap().status();
        assert!(status.is_client_error(), "{path}: {status}");
    }
    let metrics = ask("/metrics").send().await.unwrap().text().await.unwrap();
    for line in ["upswarm_machines 0", "upswarm_machines_by_standing{standing=\"unknown\"} 0", "upswarm_alarms_open "] {
        assert!(metrics.lines().any(|found| found.starts_with(line)), "{line}: {metrics}");
    }
    // The dashboard and the alert rules that come with the program name figures that there are.
    let files = [
        include_str!("../../../packaging/monitoring/alerts.yml"),
        include_str!("../../../packaging/monitoring/dashboard.json"),
    ];
    let words = files.iter().flat_map(|file| file.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    let named: Vec<&str> = words.filter(|word| word.starts_with("upswarm_")).collect();
    assert!(named.len() > 15, "{named:?}");
    for name in named {
        assert!(metrics.contains(&format!("# TYPE {name} gauge")), "{name}");
    }
    let wrong = bench.get("/metrics").bearer_auth("wrong").send().await.unwrap();
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    let outside = bind(
        Client::of(&bench.data()).unwrap_or_else(|error| panic!("{error}")),
        Options { listen: "0.0.0.0:0".parse().unwrap(), link: None, keys: Keys::default(), place: String::new() },
    );
    let refused = outside.await.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(refused.contains("loopback alone"), "{refused}");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_form_that_never_ends_is_refused_in_its_time() {
    let pages = Router::new().route("/act", post(async |_: Fields| "done"));
    let (_held, slow) = tokio::io::duplex(64);
    let body = Body::from_stream(tokio_util::io::ReaderStream::new(slow));
    let form = Request::post("/act").header("content-type", "application/x-www-form-urlencoded");
    let pages = TowerToHyperService::new(bounded(pages));
    let answer = hyper::service::Service::call(&pages, form.body(body).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
}
