//! What changes something at once and needs no signature: holds, tries, acknowledgements, syncs. Owns the check that the page which was
//! acted on still shows what is.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};

use super::Console;
use super::guard::{Fields, Visitor};
use super::trouble::Trouble;
use crate::api::alarms::{AcknowledgeRequest, AlarmQuery};
use crate::api::holds::{HoldRequest, HoldView};
use crate::api::logs::LogRequest;
use crate::api::repositories::SyncRequest;
use crate::api::retries::RetryRequest;
use crate::api::status::StatusQuery;

/// Pages that forms go back to, each alone or with one name below it.
const PAGES: [&str; 7] = ["updates", "rollouts", "devices", "sites", "groups", "repositories", "alarms"];

/// Where a form wants to go on: a page of this console, and nothing that a browser could take for another address. Asked before anything
/// is done, so that a form that is refused has changed nothing.
fn way_back(fields: &Fields, fallback: &str) -> Result<Redirect, Trouble> {
    let Some(wanted) = fields.get("back") else { return Ok(Redirect::to(fallback)) };
    if is_page(wanted) {
        return Ok(Redirect::to(wanted));
    }
    let text = "The form wants to go on to an address that is no page of this console. Nothing was changed; load the page again.";
    Err(Trouble::new(StatusCode::UNPROCESSABLE_ENTITY, "Not done", text.to_owned()))
}

fn is_page(path: &str) -> bool {
    let plain = |name: &str| !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    let Some(path) = path.strip_prefix('/') else { return false };
    let (page, name) = path.split_once('/').map_or((path, None), |(page, name)| (page, Some(name)));
    path.is_empty() || PAGES.contains(&page) && name.is_none_or(plain)
}

/// Pauses or resumes everything, a group, an update, or an update in a group.
pub(super) async fn hold(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    fields: Fields,
) -> Result<Response, Trouble> {
    fields.must_be_of(&visitor)?;
    let back = way_back(&fields, "/rollouts")?;
    let on = fields.get("on") == Some("true");
    let release = fields.get("release").map(str::to_owned);
    let request = HoldRequest {
        group: fields.get("group").map(str::to_owned),
        release: release.clone(),
        on,
        all_due: fields.get("all_due") == Some("true"),
    };
    let status = console.client.status(&StatusQuery::default()).await?;
    let catalog = console.client.catalog().await?;
    let release = release.map(|text| catalog.release_named(&text).map(|known| known.release)).transpose();
    let release = release.map_err(|reason| Trouble::conflict(format!("{reason}.")))?;
    let meant = HoldView { group: request.group.clone(), release };
    if status.holds.contains(&meant) == on {
        let now = if on { "on hold already" } else { "not on hold any more" };
        return Err(Trouble::conflict(format!(
            "{} is {now}: somebody was faster, or a rollout has stopped by itself. Nothing was changed.",
            match (&meant.group, &meant.release) {
                (None, None) => "Everything".to_owned(),
                _ => format!("What {} names", meant.words()),
            }
        )));
    }
    console.client.hold(&request).await?;
    Ok(back.into_response())
}

/// Has machines try an update again.
pub(super) async fn retry(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    fields: Fields,
) -> Result<Response, Trouble> {
    fields.must_be_of(&visitor)?;
    let back = way_back(&fields, "/")?;
    let request = RetryRequest {
        release: fields.get("release").unwrap_or_default().to_owned(),
        device: fields.get("device").map(str::to_owned),
        group: fields.get("group").map(str::to_owned),
    };
    console.client.retry(&request).await?;
    Ok(back.into_response())
}

/// Has a machine tell what programs printed when it last tried an update.
pub(super) async fn log(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    fields: Fields,
) -> Result<Response, Trouble> {
    fields.must_be_of(&visitor)?;
    let back = way_back(&fields, "/devices")?;
    let request = LogRequest {
        device: fields.get("device").unwrap_or_default().to_owned(),
        release: fields.get("release").unwrap_or_default().to_owned(),
    };
    console.client.ask_log(&request).await?;
    Ok(back.into_response())
}

/// Notes that somebody has looked at alarms.
pub(super) async fn acknowledge(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    fields: Fields,
) -> Result<Response, Trouble> {
    fields.must_be_of(&visitor)?;
    let back = way_back(&fields, "/alarms")?;
    let ids: Vec<u64> = fields.all("id").filter_map(|id| id.parse().ok()).collect();
    if ids.is_empty() {
        return Err(Trouble::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Not done",
            "Choose the alarms that somebody has looked at.".to_owned(),
        ));
    }
    let list = console.client.alarms(&AlarmQuery { all: true }).await?;
    let open = |id: &u64| list.alarms.iter().any(|alarm| alarm.id == *id && alarm.acknowledged.is_none());
    if !ids.iter().any(open) {
        let text = "These alarms were acknowledged meanwhile. Nothing was changed.";
        return Err(Trouble::conflict(text.to_owned()));
    }
    console.client.acknowledge(&AcknowledgeRequest { ids, all: false }).await?;
    Ok(back.into_response())
}

/// Asks the mirrors of a repository, or of all.
pub(super) async fn sync(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    fields: Fields,
) -> Result<Response, Trouble> {
    fields.must_be_of(&visitor)?;
    let back = way_back(&fields, "/repositories")?;
    console.client.sync(&SyncRequest { name: fields.get("name").map(str::to_owned) }).await?;
    Ok(back.into_response())
}

#[cfg(test)]
mod tests {
    use super::is_page;

    #[test]
    fn only_pages_of_the_console_are_gone_back_to() {
        for page in ["/", "/rollouts", "/groups", "/alarms", "/devices/12D3KooWab", "/updates/00ff-1"] {
            assert!(is_page(page), "{page}");
        }
        for other in [
            "",
            "rollouts",
            "//evil.example",
            "/\\evil.example",
            "/\t/evil.example",
            "/\r\nx: y",
            "/rollouts\r\nset-cookie: a=b",
            "/rollouts/",
            "/rollouts//x",
            "/devices/..",
            "/devices/a/b",
            "/devices/%2e",
            "/act/leave",
            "/enter",
            "/rollouts?x=//y",
            "/rollouts#x",
            "/rollouts@evil.example",
            "http://evil.example/",
            "/\u{202e}",
        ] {
            assert!(!is_page(other), "{other:?}");
        }
    }
}
