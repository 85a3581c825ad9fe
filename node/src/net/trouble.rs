//! Why a dial failed, in one line that a person can act on. libp2p wraps the system's error several times, and some of its
//! wrappers say nothing at all: this module digs for the cause, and never returns an empty text.

use std::error::Error;
use std::io;

use libp2p::dns;
use libp2p::swarm::DialError;

use super::UPGRADE;

/// One line, with the cause that a person can act on.
pub(super) fn dial_error(error: &DialError) -> String {
    match error {
        DialError::LocalPeerId { .. } => "this is the machine itself".into(),
        DialError::DialPeerConditionFalse(_) => "already connected to this peer, or dialling it".into(),
        DialError::WrongPeerId { obtained, .. } => format!("another machine answers there: {obtained}"),
        DialError::Denied { cause } => words(cause),
        DialError::Transport(attempts) => match attempts.first() {
            Some((_, error)) => words(error),
            None => "no address to try".into(),
        },
        error => words(error),
    }
}

/// The innermost cause that says something.
pub(super) fn words(error: &(dyn Error + 'static)) -> String {
    let (mut said, mut current) = (String::new(), Some(error));
    while let Some(error) = current {
        if let Some(error) = error.downcast_ref::<dns::Error<io::Error>>() {
            match error {
                dns::Error::ResolveError(error) => return format!("the name is not found: {}", one_line(error)),
                dns::Error::Dial(errors) if !errors.is_empty() => {
                    let all: Vec<String> = errors.iter().map(|error| words(error)).collect();
                    return all.join("; ");
                }
                _ => {}
            }
        }
        let own = one_line(error);
        if !own.is_empty() {
            said = own;
        }
        current = match error.downcast_ref::<io::Error>() {
            Some(error) if error.raw_os_error().is_some() || error.get_ref().is_none() => return system(error),
            // The source of an error that wraps another is that one's source: look at the wrapped one itself.
            Some(error) => error.get_ref().map(|inner| inner as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    match said.as_str() {
        "" => "failed for a reason that nobody tells".into(),
        "Timeout has been reached" => format!("no answer within {} s", UPGRADE.as_secs()),
        _ => said,
    }
}

fn system(error: &io::Error) -> String {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused => "connection refused: nothing listens there, or a firewall says no".into(),
        Kind::NetworkUnreachable | Kind::HostUnreachable => "no route to it".into(),
        Kind::TimedOut => "timed out".into(),
        Kind::AddrNotAvailable => "this machine has no address from which to reach it".into(),
        Kind::ConnectionReset => "the other side has broken off the connection".into(),
        _ => one_line(error),
    }
}

fn one_line(error: &(impl std::fmt::Display + ?Sized)) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::core::transport::TransportError;

    fn wrapped(error: io::Error) -> TransportError<io::Error> {
        TransportError::Other(io::Error::other(TransportError::Other(io::Error::other(error))))
    }

    #[test]
    fn no_cause_is_lost_in_its_wrappers() {
        for (number, named) in
            [(111, "refused"), (101, "no route"), (113, "no route"), (110, "timed out"), (99, "no address")]
        {
            let error = wrapped(io::Error::from_raw_os_error(number));
            assert_eq!(error.to_string(), "", "or this module is needless");
            assert!(words(&error).contains(named), "{number}: {}", words(&error));
        }
        assert_eq!(words(&wrapped(io::Error::other("Timeout has been reached"))), "no answer within 15 s");
        assert!(!words(&wrapped(io::Error::other(""))).is_empty());
        let several = dns::Error::Dial(vec![
            dns::Error::Transport(io::Error::from_raw_os_error(111)),
            dns::Error::Transport(io::Error::from_raw_os_error(101)),
        ]);
        let text = words(&wrapped(io::Error::other(several)));
        assert!(text.contains("refused") && text.contains("; no route"), "{text}");
    }
}
