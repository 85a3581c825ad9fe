mod client;
mod groups;
mod notes;
mod packages;
mod refusals;
mod restarts;
mod taken_over;
mod world;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use upswarm_protocol::catalog::Action;
use upswarm_protocol::catalog::page::MAX_PAGE;
use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::envelope::Kind;
use upswarm_protocol::ids::DocHash;

use self::world::{Bench, World, list};
use super::wire::{
    self, Answer, Ask, AskedLog, Back, Found, Job, MAX_ANSWER, MAX_ASK, Outcome, Patience, Restarted, Task, WireError,
};

fn soon() -> Patience<'static> {
    Patience::Until(Instant::now() + Duration::from_secs(30))
}

/// The bytes of one frame.
fn frame<T: serde::Serialize>(message: &T, limit: usize) -> Vec<u8> {
    use std::io::Read as _;
    let (mut here, mut there) = UnixStream::pair().unwrap();
    // What is written is more than the kernel keeps.
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        there.read_to_end(&mut bytes).unwrap();
        bytes
    });
    wire::send(&mut here, message, limit).unwrap();
    drop(here);
    reader.join().unwrap()
}

#[test]
fn the_bytes_of_every_message_are_pinned() {
    let bytes = |byte: u8| vec![byte; 3];
    let job = Job {
        roots: list([list(bytes(1))]),
        head: list(bytes(2)),
        index: Some(list(bytes(3))),
        pages: list([list(bytes(10))]),
        assignment: list(bytes(4)),
        release: list(bytes(5)),
        approval: list(bytes(6)),
        groups: list([list(bytes(11))]),
        back: Some(Back { release: list(bytes(7)), approval: list(bytes(8)) }),
        task: Task::Install { action: Action::Install, payloads: list([0, 7]) },
    };
    let restart = Job { task: Task::Restart { go: true }, ..job.clone() };
    let restarted = format!("{}0200000001", &JOB.replace("55504909a0", "5550490991")[..JOB.len() - 40]);
    let note = Job { task: Task::Note { payloads: list([0, 1]) }, ..job.clone() };
    let noted =
        format!("{}03000000020000000000000000000100", &JOB.replace("55504909a0", "555049099c")[..JOB.len() - 40]);
    let text = |text: &str| Text::new(text).unwrap();
    let asks = [
        (Ask::State, "555049090400000000000000"),
        (Ask::Job(Box::new(job)), JOB),
        (Ask::Job(Box::new(restart)), &restarted),
        (Ask::Job(Box::new(note)), &noted),
        (
            Ask::Log(Box::new(AskedLog { roots: list([list(bytes(1))]), order: list(bytes(2)) })),
            "555049092200000002000000010000000000000003000000000000000101010300000000000000020202",
        ),
    ];
    for (ask, expected) in asks {
        assert_eq!(hex::encode(frame(&ask, MAX_ASK)), expected, "bump the version of the protocol: {ask:?}");
    }
    let hash = DocHash([0xab; 32]);
    let answers = [
        (Answer::State { root: 2, index: Some(hash) }, format!("555049092d00000000000000020000000000000001{hash}")),
        (Answer::Detected(Found::Present), "55504909080000000100000000000000".into()),
        (Answer::Detected(Found::Absent), "55504909080000000100000001000000".into()),
        (Answer::Detected(Found::Unknown(text("?"))), "5550490911000000010000000300000001000000000000003f".into()),
        (
            Answer::Ended(Outcome::Done { restart: true, code: Some(3) }),
            "555049090e0000000200000000000000010103000000".into(),
        ),
        (
            Answer::Ended(Outcome::Failed { code: None, reason: text("no") }),
            "555049091300000002000000030000000002000000000000006e6f".into(),
        ),
        (Answer::Refused(text("no")), "555049090e0000000300000002000000000000006e6f".into()),
        (Answer::NotYet(text("no")), "555049090e0000000400000002000000000000006e6f".into()),
        (Answer::Log(list(b"no".to_vec())), "555049090e0000000600000002000000000000006e6f".into()),
        (Answer::Restart(Restarted::Asked), "55504909080000000500000001000000".into()),
        (Answer::Restart(Restarted::Failed(text("no"))), "5550490912000000050000000300000002000000000000006e6f".into()),
    ];
    for (answer, expected) in answers {
        assert_eq!(hex::encode(frame(&answer, MAX_ANSWER)), expected, "bump the version of the protocol: {answer:?}");
    }
}

const JOB: &str = "55504909a000000001000000010000000000000003000000000000000101010300000000000000020202010300000000000000030303010000000000000003000000000000000a0a0a030000000000000004040403000000000000000505050300000000000000060606010000000000000003000000000000000b0b0b01030000000000000007070703000000000000000808080100000000000000020000000000000000000700";

#[test]
fn the_largest_job_fits_and_what_is_larger_is_not_read() {
    let full = |len: usize| vec![9; len];
    let job = Job {
        roots: list((0..wire::MAX_ROOTS).map(|_| list(full(Kind::Root.cap())))),
        head: list(full(Kind::Head.cap())),
        index: Some(list(full(Kind::Index.cap()))),
        pages: list((0..wire::MAX_PAGES).map(|_| list(full(MAX_PAGE)))),
        assignment: list(full(Kind::Assignment.cap())),
        release: list(full(Kind::Release.cap())),
        approval: list(full(Kind::Approval.cap())),
        groups: list((0..2).map(|_| list(full(Kind::Group.cap())))),
        back: Some(Back { release: list(full(Kind::Release.cap())), approval: list(full(Kind::Approval.cap())) }),
        task: Task::Install { action: Action::Install, payloads: list(0..512) },
    };
    assert!(frame(&Ask::Job(Box::new(job)), MAX_ASK).len() <= MAX_ASK);

    for (bytes, expected) in [
        (b"UPI\x01\0\0\0\0".to_vec(), "not a message of this version"),
        (b"GET / HTTP/1.1\r\n".to_vec(), "not a message of this version"),
        (b"UPI\x09\xff\xff\xff\xff".to_vec(), "bytes, more than"),
        (b"UPI\x09\x08\0\0\0\0\0\0\0\0\0\0\0".to_vec(), "malformed"),
        (b"UPI\x09\x04\0\0\0\x09\0\0\0".to_vec(), "malformed"),
        (b"UPI\x09\x04\0\0\0\0".to_vec(), "the connection broke"),
        (b"UPI".to_vec(), "the connection broke"),
    ] {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        here.write_all(&bytes).unwrap();
        drop(here);
        let error = wire::receive::<Ask>(&mut there, MAX_ASK, soon()).unwrap_err().to_string();
        assert!(error.contains(expected), "{bytes:?}: {error}");
    }
}

#[test]
fn a_reader_waits_no_longer_than_it_said() {
    let (_here, mut there) = UnixStream::pair().unwrap();
    let end = Instant::now() + Duration::from_millis(30);
    let late = wire::receive::<Ask>(&mut there, MAX_ASK, Patience::Until(end));
    assert!(matches!(late, Err(WireError::Late)), "{late:?}");
    assert!(matches!(wire::receive_files(&there, 1, Patience::Until(end)), Err(WireError::Late)));
    let ending = AtomicBool::new(true);
    let ended = wire::receive::<Ask>(&mut there, MAX_ASK, Patience::Unless(&ending));
    assert!(matches!(ended, Err(WireError::Ending)), "{ended:?}");
}

#[test]
fn files_travel_in_order_and_as_many_as_announced() {
    let dir = tempfile::tempdir().unwrap();
    let files: Vec<File> = (0..150)
        .map(|n| {
            let path = dir.path().join(n.to_string());
            fs::write(&path, n.to_string()).unwrap();
            File::open(path).unwrap()
        })
        .collect();
    let pair = || UnixStream::pair().unwrap();
    let (here, there) = pair();
    crate::sys::send_files(&here, &files).unwrap();
    let received = wire::receive_files(&there, 150, soon()).unwrap();
    for (n, file) in received.into_iter().enumerate() {
        assert_eq!(std::io::read_to_string(file).unwrap(), n.to_string());
    }
    let (here, there) = pair();
    crate::sys::send_files(&here, &files[..10]).unwrap();
    assert!(matches!(wire::receive_files(&there, 9, soon()), Err(WireError::Descriptors)), "one too many");
    let (mut here, there) = pair();
    here.write_all(&[0]).unwrap();
    assert!(matches!(wire::receive_files(&there, 1, soon()), Err(WireError::Descriptors)), "a byte without any");
    let (here, there) = pair();
    drop(here);
    assert!(matches!(wire::receive_files(&there, 1, soon()), Err(WireError::Descriptors)), "the end");
}

/// The straight line: detect, install, detect, uninstall, over a restart of the installer.
#[test]
fn what_is_released_and_approved_is_installed() {
    let bench = Bench::start(World::now(), rustix::process::geteuid().as_raw());
    let world = &bench.world;
    let edition = world.good(1);
    assert_eq!(bench.detect(&edition), Answer::Detected(Found::Absent));
    assert_eq!(bench.install(&edition), Answer::Ended(Outcome::Done { restart: false, code: Some(0) }));
    assert!(bench.good().exists());
    assert_eq!(bench.detect(&edition), Answer::Detected(Found::Present));
    let bench = bench.restart();
    let removal = bench.world.removal(2);
    let files = bench.files(&[&bench.world.good_script()]);
    let answer =
        bench.ask(&removal.job(Task::Install { action: Action::Uninstall, payloads: Bounded::default() }), &[]);
    assert_eq!(answer, Answer::Ended(Outcome::Done { restart: false, code: Some(0) }));
    assert!(!bench.good().exists());
    // What was approved before was not forgotten by the restart, and does not count any more.
    let again = bench.ask(&edition.job(Task::Install { action: Action::Install, payloads: list([0]) }), &files);
    assert!(matches!(again, Answer::Refused(_)), "{again:?}");
    assert!(!bench.good().exists());
}

#[test]
fn a_hanging_recipe_is_ended_and_the_next_is_run() {
    let bench = Bench::start(World::now(), rustix::process::geteuid().as_raw());
    let hanging = bench.world.hanging(1);
    let answer = bench.ask(&hanging.job(Task::Install { action: Action::Install, payloads: Bounded::default() }), &[]);
    let Answer::Ended(Outcome::Failed { reason, .. }) = &answer else { panic!("{answer:?}") };
    assert!(reason.contains("did not end within 1 s"), "{reason}");
    assert_eq!(bench.install(&bench.world.good(2)), Answer::Ended(Outcome::Done { restart: false, code: Some(0) }));
}

#[test]
fn two_installers_do_not_share_a_directory_and_a_pin_is_not_replaced() {
    let bench = Bench::start(World::now(), rustix::process::geteuid().as_raw());
    let second = bench.run_again();
    assert!(format!("{:#}", second.unwrap_err()).contains("another installer uses"));
    let other = super::Pin { root: DocHash([1; 32]), device: bench.world.pin().device };
    assert!(format!("{:#}", other.write(&bench.data()).unwrap_err()).contains("pinned to another root"));
    bench.world.pin().write(&bench.data()).unwrap();
}
