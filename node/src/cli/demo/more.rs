//! What makes a console worth looking at: updates that wait for a decision, that fail on some machines, and that go out in rings.

use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;

use super::processes::Program;

/// A release in a few lines: it is there where its file is, and its recipe may fail.
struct Small {
    product: &'static str,
    version: &'static str,
    title: &'static str,
    severity: &'static str,
    /// Whether its recipe fails.
    fails: bool,
    /// What is decided about it, if anything.
    decided: Option<Decided>,
}

#[derive(Clone, Copy)]
enum Decided {
    /// Some machines try it now, the others tomorrow.
    InRings,
    Declined,
}

const ALL: [Small; 4] = [
    Small {
        product: "org.example.browser",
        version: "128.4",
        title: "Browser 128.4, closes a hole that is used",
        severity: "critical",
        fails: false,
        decided: None,
    },
    Small {
        product: "org.example.editor",
        version: "2.1",
        title: "Editor 2.1",
        severity: "moderate",
        fails: false,
        decided: Some(Decided::InRings),
    },
    Small {
        product: "org.example.printer-driver",
        version: "7.0",
        title: "Printer driver 7.0",
        severity: "low",
        fails: true,
        decided: Some(Decided::InRings),
    },
    Small {
        product: "org.example.toolbar",
        version: "1.0",
        title: "Toolbar 1.0",
        severity: "low",
        fails: false,
        decided: Some(Decided::Declined),
    },
];

/// Publishes them, and decides about some.
pub(super) async fn to_look_at(program: &Program, home: &Path, data: &str) -> anyhow::Result<()> {
    for small in &ALL {
        let file = release(home, small)?;
        let published = program.verb(&["publish", "--data-dir", data, &file]).await?;
        let id = published["release"].as_str().context("publish printed no release id")?;
        match small.decided {
            Some(Decided::InRings) => in_rings(program, data, id).await?,
            Some(Decided::Declined) => drop(approve(program, data, id, &["--action", "none"]).await?),
            None => {}
        }
    }
    Ok(())
}

/// Which machine is in which ring is chance: the share nearest to a half that puts some into the first and some into the second.
async fn in_rings(program: &Program, data: &str, id: &str) -> anyhow::Result<()> {
    let mut shares = (50..100).step_by(5).chain((5..50).step_by(5).rev());
    let share = loop {
        // A single machine is in one of them.
        let Some(percent) = shares.next() else { break "50%".to_owned() };
        let share = format!("{percent}%");
        let rings = ["--ring", &share, "--ring", "100%+1d", "--yes", "--dry-run"];
        let shown = approve(program, data, id, &rings).await?;
        let of = |ring: usize| shown["preview"]["rings"][ring]["devices"].as_array().map_or(0, Vec::len);
        if of(0) > 0 && of(1) > 0 {
            break share;
        }
    };
    approve(program, data, id, &["--ring", &share, "--ring", "100%+1d", "--yes"]).await?;
    Ok(())
}

async fn approve(program: &Program, data: &str, id: &str, how: &[&str]) -> anyhow::Result<Value> {
    program.verb(&[&["approve", "--data-dir", data, id, "--group", "office"], how].concat()).await
}

fn release(home: &Path, small: &Small) -> anyhow::Result<String> {
    let name = small.product.rsplit('.').next().unwrap_or(small.product);
    let payload = home.join(format!("{name}.bin"));
    let text = format!("{} {}\n", small.product, small.version).repeat(4096);
    std::fs::write(&payload, text).with_context(|| format!("writing {}", payload.display()))?;
    let install = if small.fails {
        let script = "echo the driver needs kernel 6.12 or later >&2; exit 3";
        format!("exec = [\"/bin/sh\", \"-c\", \"{script}\"]")
    } else {
        format!("files = [{{ payload = \"{name}.bin\", path = \"/opt/{name}/{name}\" }}]")
    };
    let text = format!(
        "product = \"{}\"\nversion = \"{}\"\ntitle = \"{}\"\nclassification = \"update\"\nseverity = \"{}\"\n\
         [[payload]]\npath = \"{}\"\n[[detect]]\nfile = \"/opt/{name}/{name}\"\npayload = \"{name}.bin\"\n[install]\n{install}\n",
        small.product,
        small.version,
        small.title,
        small.severity,
        payload.display()
    );
    let path = home.join(format!("{name}.toml"));
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(path.display().to_string())
}
