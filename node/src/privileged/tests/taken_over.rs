//! A network process that is fully taken over: a real process without rights, of the node's own user, that says whatever it
//! likes and never what it should. The test is this program twice: as root it runs the installer, as nobody it plays.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, Mode, OFlags};
use upswarm_protocol::catalog::{Action, RestartPolicy};
use upswarm_protocol::codec::Bounded;
use upswarm_protocol::time::Wall;

use super::refusals::{MAY_DETECT, forgeries, refused};
use super::world::{Bench, Edition, World, ask, list};
use crate::privileged::wire::{self, Answer, Ask, MAX_ANSWER, MAX_ASK, Outcome, Task};

const NOBODY: u32 = 65534;
const STRANGER: u32 = 65533;
/// Races through the whole installer; those between copying and swapping alone are counted in `installer::tests`.
const RACES: usize = 150;

#[test]
fn a_taken_over_network_process_cannot_have_anything_else_installed() {
    if !rustix::process::geteuid().is_root() || crate::sys::find("setpriv").is_none() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root and setpriv, and CI must not skip it");
        eprintln!("SKIPPED: a process without rights can be played by root with setpriv only");
        return;
    }
    let bench = Bench::start(World::now(), NOBODY);
    play(&bench, NOBODY, "player");
    // What is approved may have run, and its detection; nothing else has left a mark.
    let allowed = ["good", "good.detected"];
    assert!(bench.marks().iter().all(|mark| allowed.contains(&mark.as_str())), "{:?}", bench.marks());
    // After all that it still works, and it has written nothing for the other's eyes.
    let last = bench.world.good(1_000_000);
    assert_eq!(bench.install(&last), Answer::Ended(Outcome::Done { restart: false, code: Some(0) }));
    assert_eq!(fs::metadata(bench.data()).unwrap().permissions().mode() & 0o777, 0o700);

    // Another user does not even get to the installer; where the socket lets it, the installer does not listen to it.
    play(&bench, STRANGER, "stranger");
    fs::set_permissions(bench.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    play(&bench, STRANGER, "stranger");
}

/// Runs one of the players below as this user, and expects that it is content.
fn play(bench: &Bench, uid: u32, part: &str) {
    let program = bench.dir.path().join("run/player");
    if !program.exists() {
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let id = uid.to_string();
    let test = format!("privileged::tests::taken_over::{part}");
    let played = Command::new("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--no-new-privs"])
        .arg(&program)
        .args([&test, "--exact", "--ignored", "--nocapture"])
        .env("UPSWARM_TEST_DIR", bench.dir.path())
        .env("UPSWARM_TEST_NOW", bench.world.now.0.to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&played.stdout);
    let errors = String::from_utf8_lossy(&played.stderr);
    assert!(played.status.success() && said.contains("PLAYED"), "{said}\n{errors}");
}

/// Where the player is, and the world, whose keys it knows: it signs what a thief of those keys would.
fn scene() -> Option<(World, PathBuf)> {
    let dir = PathBuf::from(std::env::var_os("UPSWARM_TEST_DIR")?);
    let now = std::env::var("UPSWARM_TEST_NOW").ok()?.parse().ok()?;
    Some((World::at(Wall(now), &dir.join("marks")), dir))
}

#[test]
#[ignore = "a part in another test"]
fn stranger() {
    let Some((world, dir)) = scene() else { return };
    let socket = dir.join("run/installer.sock");
    if let Ok(mut stream) = UnixStream::connect(&socket) {
        let _ = wire::send(&mut stream, &Ask::Job(Box::new(world.good(2_000_000).install())), MAX_ASK);
        let answer = wire::receive::<Answer>(&mut stream, MAX_ANSWER, super::soon());
        assert!(matches!(&answer, Ok(Answer::Refused(why)) if why.contains("may not ask")), "{answer:?}");
    } else {
        let refused = UnixStream::connect(&socket).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    }
    println!("PLAYED");
}

#[test]
#[ignore = "a part in another test"]
fn player() {
    let Some((world, dir)) = scene() else { return };
    assert_eq!(rustix::process::geteuid().as_raw(), NOBODY);
    assert!(fs::read_dir(dir.join("installer")).is_err(), "the installer's directory is closed");
    let socket = dir.join("run/installer.sock");
    let good = world.good(1);
    let bad = file(&dir, "bad", &world.bad_script());

    // The honest way works, so what follows is refused for its own sake.
    let mut version = 1;
    expect_done(&ask(&socket, &good.install(), &[file(&dir, "good", &world.good_script())]));

    let forgeries = forgeries(&world, version);
    version += forgeries.len() as u64;
    for (name, edition) in &forgeries {
        for job in [edition.install(), edition.job(Task::Detect)] {
            if job.task == Task::Detect && MAY_DETECT.contains(name) {
                continue;
            }
            let answer = ask(&socket, &job, std::slice::from_ref(&bad));
            assert!(refused(&answer).is_some(), "{name}: {answer:?}");
        }
    }
    replay(&world, &socket, &good, &mut version);
    // No recipe has wanted a restart.
    for go in [false, true] {
        version += 1;
        let restarting = world.restarting(version, "good", RestartPolicy::Always);
        let answer = ask(&socket, &restarting.job(Task::Restart { go }), &[]);
        assert!(matches!(&answer, Answer::Refused(why) if why.contains("wanted a restart")), "{answer:?}");
    }
    version += 1;
    let edition = world.good(version);
    other_descriptors(&world, &dir, &socket, &edition);
    race(&world, &dir, &socket, &edition);
    noise(&socket, &edition);
    // Whatever was said, the honest way is open still.
    expect_done(&ask(&socket, &edition.install(), &[file(&dir, "good", &world.good_script())]));
    println!("PLAYED");
}

/// Documents that were good once.
fn replay(world: &World, socket: &Path, good: &Edition, version: &mut u64) {
    *version += 1;
    let newer = world.good(*version);
    assert!(matches!(ask(socket, &newer.job(Task::Detect), &[]), Answer::Detected(_)));
    let mixes = [
        ("all of it", good.clone()),
        ("the old approval under the new index", Edition { approval: good.approval.clone(), ..newer.clone() }),
        (
            "the old index under the new head",
            Edition { index: good.index.clone(), approval: good.approval.clone(), ..newer.clone() },
        ),
        (
            "the old head over the new index",
            Edition { head: good.head.clone(), approval: good.approval.clone(), ..newer },
        ),
    ];
    for (name, edition) in mixes {
        let answer = ask(socket, &edition.install(), &[]);
        assert!(matches!(answer, Answer::Refused(_)), "{name}: {answer:?}");
    }
}

/// Whatever a descriptor can be but the payload.
fn other_descriptors(world: &World, dir: &Path, socket: &Path, edition: &Edition) {
    let node = dir.join("node");
    let path = |name: &str| node.join(name);
    let open = |path: &Path, flags: OFlags| File::from(rustix::fs::open(path, flags, Mode::empty()).unwrap());
    assert!(Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
    symlink("/etc/passwd", path("link")).unwrap();
    let right = file(dir, "right", &world.good_script());
    drop(right);
    let memory = File::from(rustix::fs::memfd_create("payload", MemfdFlags::CLOEXEC).unwrap());
    (&memory).write_all(&world.bad_script()).unwrap();
    let endless = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path("endless")).unwrap();
    endless.set_len(1 << 40).unwrap();
    let (one, _other) = UnixStream::pair().unwrap();
    let descriptors = [
        ("the bytes of another release", file(dir, "other", &world.bad_script())),
        ("a directory", File::open(&node).unwrap()),
        ("a pipe", open(&path("pipe"), OFlags::RDONLY | OFlags::NONBLOCK)),
        ("an endless device", File::open("/dev/zero").unwrap()),
        ("an empty device", File::open("/dev/null").unwrap()),
        ("a terminal's device", File::open("/dev/ptmx").unwrap_or_else(|_| File::open("/dev/null").unwrap())),
        ("a socket", File::from(std::os::fd::OwnedFd::from(one))),
        ("a file that is open for writing only", open(&path("right"), OFlags::WRONLY)),
        ("a path without a file", open(&path("right"), OFlags::PATH)),
        ("a link itself", open(&path("link"), OFlags::PATH | OFlags::NOFOLLOW)),
        ("a file of the system", File::open(path("link")).unwrap()),
        ("an empty file", file(dir, "empty", b"")),
        ("a file of a tebibyte", endless),
        ("memory", memory),
        ("a kernel file", File::open("/proc/self/maps").unwrap()),
    ];
    for (name, descriptor) in descriptors {
        let answer = ask(socket, &edition.install(), &[descriptor]);
        let refused = matches!(answer, Answer::Ended(Outcome::Failed { .. } | Outcome::Retry { .. }));
        assert!(refused, "{name}: {answer:?}");
    }
    // More and fewer than announced.
    let file = || File::open(path("other")).unwrap();
    let several = Task::Install { action: Action::Install, payloads: list([0]) };
    for files in [vec![file(), file()], (0..200).map(|_| file()).collect()] {
        let answer = ask(socket, &edition.job(several.clone()), &files);
        assert!(matches!(answer, Answer::Refused(_)), "{answer:?}");
    }
    let none = Task::Install { action: Action::Install, payloads: Bounded::default() };
    let answer = ask(socket, &edition.job(none), &[file()]);
    assert!(matches!(answer, Answer::Ended(Outcome::Retry { .. })), "{answer:?}");
}

/// While the installer copies, hashes and runs, the file behind the descriptor changes to and fro.
fn race(world: &World, dir: &Path, socket: &Path, edition: &Edition) {
    let (good, bad) = (world.good_script(), world.bad_script());
    assert_eq!(good.len(), bad.len());
    let path = dir.join("node/race");
    let handle = file(dir, "race", &good);
    let writer = OpenOptions::new().write(true).open(&path).unwrap();
    let over = AtomicBool::new(false);
    let (mut done, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0_usize;
            while !over.load(Ordering::Relaxed) {
                let bytes = if round.is_multiple_of(2) { &bad } else { &good };
                writer.write_all_at(bytes, 0).unwrap();
                if round.is_multiple_of(7) {
                    writer.set_len(0).unwrap();
                }
                writer.write_all_at(&good, 0).unwrap();
                round += 1;
            }
        });
        for _ in 0..RACES {
            match ask(socket, &edition.install(), &[handle.try_clone().unwrap()]) {
                Answer::Ended(Outcome::Done { .. }) => done += 1,
                Answer::Ended(Outcome::Retry { .. }) => refused += 1,
                other => panic!("{other:?}"),
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(!dir.join("marks/bad").exists(), "unverified bytes were run");
    println!("{done} installed, {refused} refused");
}

/// What is no message, too much, or never ends.
fn noise(socket: &Path, edition: &Edition) {
    let say = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(socket).unwrap();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut heard = Vec::new();
        let _ = stream.take(MAX_ANSWER as u64 + 1).read_to_end(&mut heard);
        assert!(heard.len() <= MAX_ANSWER);
    };
    let frame = super::frame(&Ask::Job(Box::new(edition.install())), MAX_ASK);
    // Without its descriptor, and torn at many places.
    for cut in (0..frame.len()).step_by(frame.len() / 40) {
        say(&frame[..cut]);
    }
    // Every byte of the frame's head and of the message's first fields.
    for at in 0..64.min(frame.len()) {
        let mut twisted = frame.clone();
        twisted[at] ^= 0x81;
        say(&twisted);
    }
    say(&[b"UPI\x04\xff\xff\xff\xff".as_slice(), &vec![0; 8 << 20]].concat());
    say(&vec![0xff; 8 << 20]);
    let mut state = frame.len() as u64;
    for _ in 0..300 {
        let mut bytes = b"UPI\x04\x40\0\0\0".to_vec();
        for _ in 0..64 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            bytes.push((state >> 56) as u8);
        }
        say(&bytes);
    }
    // Hundreds of connections that say nothing and go away, and one that stays and says a byte now and then.
    for _ in 0..300 {
        drop(UnixStream::connect(socket).unwrap());
    }
    let mut slow = UnixStream::connect(socket).unwrap();
    let mut bytes = b"UPI\x04\0\0\x10\0".iter().chain(std::iter::repeat(&0));
    let deadline = Instant::now() + Duration::from_secs(60);
    slow.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    loop {
        let sent = bytes.next().is_some_and(|byte| slow.write_all(&[*byte]).is_ok());
        let hung_up = !sent || !matches!(slow.read(&mut [0; 64]), Err(error) if wire::is_passing(&error));
        if hung_up {
            break;
        }
        assert!(Instant::now() < deadline, "one that says a byte now and then holds the installer up");
    }
}

fn file(dir: &Path, name: &str, content: &[u8]) -> File {
    let path = dir.join("node").join(name);
    fs::write(&path, content).unwrap();
    File::open(path).unwrap()
}

fn expect_done(answer: &Answer) {
    assert_eq!(*answer, Answer::Ended(Outcome::Done { restart: false, code: Some(0) }));
}
