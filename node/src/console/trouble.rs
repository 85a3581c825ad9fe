//! Why there is no page, as a page. Owns its words for who has no session; every other reason is whoever refuses'.

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};

use super::show::VERSION;
use crate::error::CliError;

/// Why there is no page, as one.
#[derive(Debug)]
pub(crate) struct Trouble {
    status: StatusCode,
    title: String,
    text: String,
}

#[derive(Template)]
#[template(path = "trouble.html")]
struct TroublePage<'a> {
    title: &'a str,
    text: &'a str,
    version: &'static str,
    inside: bool,
}

impl Trouble {
    pub(super) fn new(status: StatusCode, title: &str, text: String) -> Self {
        Self { status, title: title.to_owned(), text }
    }

    /// Whoever has no session.
    pub(super) fn stranger() -> Self {
        let text = "This browser has no session here, or it has ended. A link lets one browser in, once; a new one is made each time. \
                    It was printed when the console started, and lies in the file console-link of the coordinator's data directory.";
        Self::new(StatusCode::UNAUTHORIZED, "Come in by the link", text.to_owned())
    }

    pub(super) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Nothing here", "No page has this address.".to_owned())
    }

    /// Why what was typed cannot be taken, if that is the trouble: typed otherwise, it could be.
    pub(super) fn refusal(self) -> Result<String, Self> {
        if self.status == StatusCode::UNPROCESSABLE_ENTITY { Ok(self.text) } else { Err(self) }
    }

    /// The page that was acted on shows an earlier state.
    pub(super) fn conflict(text: String) -> Self {
        Self::new(StatusCode::CONFLICT, "Something has changed meanwhile", text)
    }
}

impl From<CliError> for Trouble {
    fn from(error: CliError) -> Self {
        match error {
            CliError::Refused(reason) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Not done", reason),
            CliError::Failed(error) => Self::from(error),
        }
    }
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "It did not work", format!("{error:#}"))
    }
}

impl From<QueryRejection> for Trouble {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "Not understood", rejection.body_text())
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let inside = self.status != StatusCode::UNAUTHORIZED && self.status != StatusCode::MISDIRECTED_REQUEST;
        let page = TroublePage { title: &self.title, text: &self.text, version: VERSION, inside };
        let text = page.render().unwrap_or_else(|_| "the page could not be put together".to_owned());
        (self.status, Html(text)).into_response()
    }
}
