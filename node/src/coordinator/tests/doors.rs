//! Strangers at a door keep nobody else out.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::*;

/// More than any door has places.
const CROWD: usize = 1200;

impl Bench {
    fn origin(&self) -> SocketAddr {
        self.running.as_ref().unwrap().info.http.parse().unwrap()
    }

    /// As an admin would, and within the time that an admin would wait.
    async fn pauses(&self) -> Duration {
        let start = Instant::now();
        self.verb(&["pause"]).await.unwrap_or_else(|error| panic!("{error}"));
        self.verb(&["resume"]).await.unwrap_or_else(|error| panic!("{error}"));
        start.elapsed()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_hold_the_origin_s_connections_shut_out_neither_machines_nor_the_admin() {
    let mut bench = Bench::start().await;
    let bytes = vec![7; 8 << 20];
    let payload = PayloadId::of(&bytes);
    assert_eq!(bench.put_payload(&payload, &bytes).await, StatusCode::OK);
    let (origin, ask) = (bench.origin(), format!("GET /payload/{payload} HTTP/1.1\r\nhost: o\r\n\r\n"));
    let crowd = tokio::task::spawn_blocking(move || {
        (0..CROWD)
            .map(|n| {
                let mut stream = TcpStream::connect(origin).unwrap();
                // Those who say nothing, those who stop in the middle of a line, and those who ask and do not take the answer.
                let said = [&[][..], b"GET /payl", ask.as_bytes()][n % 3];
                stream.write_all(said).unwrap();
                stream
            })
            .collect::<Vec<_>>()
    });
    let crowd = crowd.await.unwrap();
    let quick = bench.http.get(bench.url(&format!("/payload/{payload}"))).send().await.unwrap();
    assert_eq!(quick.bytes().await.unwrap().len(), bytes.len());
    let took = bench.pauses().await;
    eprintln!("pause and resume beside {CROWD} connections that hold the origin: {took:?}");
    let cut = tokio::task::spawn_blocking(move || {
        let ended = |mut stream: TcpStream| {
            stream.set_nonblocking(true).unwrap();
            let mut sink = vec![0; 16 << 20];
            loop {
                match stream.read(&mut sink) {
                    Ok(0) => return true,
                    Ok(_) => {}
                    Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
                }
            }
        };
        crowd.into_iter().map(ended).filter(|ended| *ended).count()
    });
    let cut = cut.await.unwrap();
    assert!(cut >= CROWD / 2, "one address holds more than its share: only {cut} of {CROWD} were cut");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_api_is_behind_its_own_door_and_admins_elsewhere_pin_its_key() {
    let mut bench = Bench::start().await;
    for path in ["/admin/v1/status", "/admin/v1/catalog"] {
        let answer = bench.http.get(bench.url(path)).bearer_auth(bench.token()).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path} at the origin");
    }
    bench.stop().await;
    let options = Options { admin: Some("127.0.0.1:0".parse().unwrap()), ..options("127.0.0.1:0") };
    let start = |directory, options| run::start(directory, options, CancellationToken::new());
    let running = start(Directory::existing(&bench.data()).unwrap(), options).await;
    let running = running.unwrap_or_else(|error| panic!("{error}"));
    let door = running.info.admin.clone().unwrap();
    bench.running = Some(running);

    let (url, key) = (format!("https://{}", door.address), door.key.to_string());
    let token = bench.write("token", bench.token().as_bytes());
    let remote = ["--coordinator", &url, "--token-file", &token];
    let verb = |args: Vec<String>| {
        tokio::task::spawn_blocking(move || cli::try_run(&args.iter().map(String::as_str).collect::<Vec<_>>()))
    };
    let status = |more: &[&str]| {
        let args = [&["status"][..], &remote, more].concat();
        verb(args.into_iter().map(str::to_owned).collect())
    };
    status(&["--coordinator-key", &key]).await.unwrap().unwrap_or_else(|error| panic!("{error}"));
    let colons: String =
        key.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect::<Vec<_>>().join(":");
    status(&["--coordinator-key", &colons]).await.unwrap().unwrap_or_else(|error| panic!("{error}"));
    let other = "00".repeat(32);
    let error = status(&["--coordinator-key", &other]).await.unwrap().unwrap_err().to_string();
    assert!(error.contains(&url), "{error}");
    assert!(status(&[]).await.unwrap().is_err(), "no authority has signed its certificate");

    // The key outlives a restart.
    bench.stop().await;
    let options = Options { admin: Some(door.address.parse().unwrap()), ..super::options("127.0.0.1:0") };
    let running = start(Directory::existing(&bench.data()).unwrap(), options).await;
    let running = running.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(running.info.admin.as_ref().unwrap().key, door.key);
    bench.running = Some(running);
    bench.stop().await;
}
