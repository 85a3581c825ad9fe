//! `upswarm top`: a live view of the node on this machine.

pub(super) mod view;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::{DefaultTerminal, Terminal};

use self::view::{Rates, Screen, Tab};
use super::{CliError, Common};
use crate::local_api::{Client, Request};

const EXAMPLE: &str = "\
KEYS:
  Tab, Right, Left, 1-6  another table        Up, Down, PgUp, PgDn, Home, End  scroll        q, Esc  leave

EXAMPLE:
  upswarm top --data-dir /var/lib/upswarm
  upswarm top --data-dir /var/lib/upswarm --once > frame.txt
  upswarm top --data-dir /var/lib/upswarm --json | jq .peers";

/// How often the node is asked.
const EVERY: Duration = Duration::from_millis(500);
/// The frame of `--once`, when there is no terminal to take its size from.
const SIZE: (u16, u16) = (80, 24);

/// Watch this machine's node: deployments, payloads, leases, peers, members of its site, bytes by source.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// The data directory of the node that runs on this machine.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Print one frame as text and leave.
    #[arg(long)]
    once: bool,
    /// The table to begin with.
    #[arg(long, value_enum, default_value_t = Tab::Overview)]
    tab: Tab,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    let mut client = Client::connect(&args.data_dir)?;
    if common.json {
        let status = client.ask(&Request::Status {})?;
        common.print(&status, "");
        return Ok(());
    }
    let mut screen = Screen::new(args.tab);
    if args.once {
        println!("{}", once(&mut client, &mut screen)?);
        return Ok(());
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        let text = "top needs a terminal; use --once for one frame as text, or --json";
        return Err(CliError::Refused(text.to_owned()));
    }
    let mut terminal =
        ratatui::try_init().map_err(|error| CliError::Failed(anyhow!("the terminal cannot be used: {error}")))?;
    let outcome = watch(&mut terminal, &mut client, &mut screen, &args);
    ratatui::restore();
    outcome
}

/// Two samples, so that there are rates, and one frame.
fn once(client: &mut Client, screen: &mut Screen) -> Result<String, CliError> {
    let mut rates = Rates::default();
    rates.take(&client.ask(&Request::Status {})?, Instant::now());
    std::thread::sleep(EVERY);
    let status = client.ask(&Request::Status {})?;
    rates.take(&status, Instant::now());
    screen.show(status, rates);
    let (columns, rows) = ratatui::crossterm::terminal::size().unwrap_or(SIZE);
    let size = if std::io::stdout().is_terminal() { (columns, rows.saturating_sub(1)) } else { SIZE };
    frame(screen, size).map_err(CliError::Failed)
}

/// A frame as text, lines without trailing blanks.
fn frame(screen: &mut Screen, (columns, rows): (u16, u16)) -> anyhow::Result<String> {
    let mut terminal = Terminal::new(TestBackend::new(columns.max(20), rows.max(8)))?;
    terminal.draw(|frame| screen.draw(frame))?;
    let buffer = terminal.backend().buffer();
    let cells: Vec<&str> = buffer.content().iter().map(|cell| cell.symbol()).collect();
    let lines = cells.chunks(usize::from(buffer.area.width)).map(|line| line.concat().trim_end().to_owned());
    Ok(lines.collect::<Vec<_>>().join("\n").trim_end().to_owned())
}

fn watch(
    terminal: &mut DefaultTerminal,
    client: &mut Client,
    screen: &mut Screen,
    args: &Args,
) -> Result<(), CliError> {
    let failed = |error: std::io::Error| CliError::Failed(anyhow!("the terminal failed: {error}"));
    let mut rates = Rates::default();
    let mut next = Instant::now();
    loop {
        if next <= Instant::now() {
            match client.ask(&Request::Status {}) {
                Ok(status) => {
                    rates.take(&status, Instant::now());
                    screen.show(status, rates.clone());
                }
                // The node may be restarting: the last picture stays, with the reason, until it is back.
                Err(error) => {
                    screen.lost(error.to_string());
                    rates = Rates::default();
                    if let Ok(again) = Client::connect(&args.data_dir) {
                        *client = again;
                    }
                }
            }
            next = Instant::now() + EVERY;
        }
        terminal.draw(|frame| screen.draw(frame)).map_err(failed)?;
        if event::poll(next.saturating_duration_since(Instant::now())).map_err(failed)?
            && let Event::Key(key) = event::read().map_err(failed)?
            && key.kind != KeyEventKind::Release
        {
            match key.code {
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
                KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                KeyCode::Tab | KeyCode::Right => screen.turn(1),
                KeyCode::BackTab | KeyCode::Left => screen.turn(-1),
                KeyCode::Char(digit @ '1'..='6') => screen.choose(digit as usize - '1' as usize),
                KeyCode::Up => screen.scroll(-1),
                KeyCode::Down => screen.scroll(1),
                KeyCode::PageUp => screen.scroll(-10),
                KeyCode::PageDown => screen.scroll(10),
                KeyCode::Home => screen.scroll(isize::MIN),
                KeyCode::End => screen.scroll(isize::MAX),
                _ => {}
            }
        }
    }
}
