use core::time::Duration;

use super::Record;
use super::bench::{Bench, START, device, opens, relay, signed_report_of};
use super::io::Input;
use crate::catalog::Action;
use crate::codec::Text;
use crate::ids::{GroupId, ReleaseId};
use crate::report::{DeploymentReport, DeploymentState as S, Report, SubState};

/// Two neighbours carry two reports, and the earlier comes later.
#[test]
fn an_report_order_report_still_counts_for_what_no_later_one_speaks_of() {
    let mut bench = Bench::new();
    bench.sync();
    bench.member(20);
    let said = |release: u8, state: S| DeploymentReport {
        release: ReleaseId([release; 32]),
        group: GroupId([1; 16]),
        approval_version: 1,
        action: Action::Install,
        state,
        sub_state: SubState::None,
        code: None,
        reason: Text::default(),
        since: START,
        done: 1,
        total: 1,
        next_try: None,
    };
    let tell = |bench: &mut Bench, seq: u64, deployments: Vec<DeploymentReport>| {
        for open in opens(&bench.frame(device(20), &relay(20, seq))) {
            bench.input(Input::ReportOpened { open, bytes: Some(signed_report_of(20, seq, 20, deployments.clone())) });
        }
        bench.sync();
    };
    let kept = |bench: &Bench| -> Vec<(u64, Vec<(u8, S)>)> {
        let reports = bench.durable.iter().filter_map(|record| match record {
            Record::Report(report, _) => Some(report),
            _ => None,
        });
        let of = |report: &Report| report.deployments.iter().map(|d| (d.release.0[0], d.state)).collect();
        reports.map(|report| (report.seq, of(report))).collect()
    };
    tell(&mut bench, 7, vec![said(1, S::Installed)]);
    tell(&mut bench, 6, vec![said(1, S::Installing), said(2, S::Failed)]);
    tell(&mut bench, 6, vec![said(1, S::Installing), said(2, S::Failed)]);
    tell(&mut bench, 5, vec![said(2, S::Downloading)]);
    assert_eq!(kept(&bench), [(7, vec![(1, S::Installed)]), (6, vec![(2, S::Failed)])], "each the last word, once");
    // More deployments than are remembered: what is forgotten is not news again.
    for seq in 100..200 {
        bench.now.mono = bench.now.mono + Duration::from_secs(1);
        tell(&mut bench, seq, vec![said(seq as u8, S::Installed)]);
    }
    let before = kept(&bench).len();
    tell(&mut bench, 99, vec![said(100, S::Failed)]);
    tell(&mut bench, 8, vec![said(3, S::Failed)]);
    assert_eq!(kept(&bench).len(), before);
}
