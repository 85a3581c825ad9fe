//! The lab itself: what it is built to be. Figures of the other tests rest on it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Instant;

use upswarm_tests::lab::{Lab, Namespace, Rates, WAN_ADDRESS};

const PORT: u16 = 9000;

/// Sends so many bytes from one namespace to an address in another; returns Mbit/s of payload.
fn transfer(from: &Namespace, to: &Namespace, address: Ipv4Addr, bytes: u64) -> f64 {
    let listener = to.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))).unwrap();
    std::thread::scope(|scope| {
        let receiving = scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut piece, mut received) = (vec![0; 1 << 18], 0);
            loop {
                match stream.read(&mut piece).unwrap() {
                    0 => return received,
                    count => received += count as u64,
                }
            }
        });
        let begin = Instant::now();
        let mut stream = from.run(|| TcpStream::connect((address, PORT))).unwrap();
        let piece = vec![7; 1 << 18];
        for _ in 0..bytes >> 18 {
            stream.write_all(&piece).unwrap();
        }
        drop(stream);
        assert_eq!(receiving.join().unwrap(), bytes);
        bytes as f64 * 8.0 / 1e6 / begin.elapsed().as_secs_f64()
    })
}

#[test]
fn links_have_their_rates_and_the_kernel_counts_what_crosses_them() {
    let Some(lab) = Lab::new(&[2, 1], Rates::default()) else { return };
    let [one, two] = &lab.sites[0].hosts[..] else { panic!("two hosts") };
    let far = &lab.sites[1].hosts[0];
    let before = lab.sites[0].wan();

    let down = transfer(&lab.wan, &one.namespace, one.address, 16 << 20);
    let down_bytes = lab.sites[0].wan() - before;
    let up = transfer(&one.namespace, &lab.wan, WAN_ADDRESS, 4 << 20);
    let between = transfer(&two.namespace, &far.namespace, far.address, 4 << 20);
    let lan_before = one.lan();
    let lan = transfer(&two.namespace, &one.namespace, one.address, 128 << 20);
    let lan_bytes = one.lan() - lan_before;
    println!(
        "LAB {{\"down_mbit\":{down:.1},\"up_mbit\":{up:.1},\"between_sites_mbit\":{between:.1},\"lan_mbit\":{lan:.1}}}"
    );

    // A link never gives more than its rate; that it gives less than half would be a fault of the lab.
    for (measured, rate) in [(down, 100.0), (up, 20.0), (between, 20.0), (lan, 1000.0)] {
        assert!(measured < rate * 1.05 && measured > rate / 2.0, "{measured:.1} Mbit/s on a link of {rate}");
    }
    for (counted, sent) in [(down_bytes.rx, 16 << 20), (lan_bytes.rx, 128 << 20)] {
        assert!(counted > sent && counted < sent + sent / 12, "{counted} bytes counted for {sent}");
    }
}
