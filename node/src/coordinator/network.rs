//! The libp2p face (placeholder until the host lands).
use anyhow::Result;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use upswarm_protocol::coordinator_state::{Input, Output};

use super::directory::Directory;

pub(crate) struct Network;

impl Network {
    pub(crate) async fn start(_identity: &[u8; 32], _listen: &[String], _directory: Directory) -> Result<Self> {
        Ok(Self)
    }
    pub(crate) fn addresses(&self) -> Vec<String> {
        vec!["/ip4/127.0.0.1/tcp/1".to_owned()]
    }
    pub(crate) fn peer(&self) -> String {
        String::new()
    }
    pub(crate) async fn run(
        self,
        _inputs: mpsc::Sender<Input>,
        mut orders: mpsc::Receiver<Output>,
        stop: CancellationToken,
    ) {
        loop {
            tokio::select! { () = stop.cancelled() => return, o = orders.recv() => if o.is_none() { return } }
        }
    }
}

pub(crate) fn reachable(addresses: &[String]) -> Vec<String> {
    addresses.to_vec()
}
