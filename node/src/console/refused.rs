//! Forms that were refused: what was typed, so that the page that shows why has it all still. Owns their store, a bounded one; it
//! judges nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::guard::Fields;
use crate::coordinator::keys;

/// Forms that are kept; the oldest makes place. Each is at most `MAX_FORM` bytes.
const MAX: usize = 16;
/// Nobody comes back to what was typed longer ago.
const LIFE: Duration = Duration::from_secs(10 * 60);

/// Forms by the name under which their page finds them.
#[derive(Default)]
pub(super) struct Refused(Mutex<BTreeMap<String, (Instant, Form)>>);

/// What was typed, and why it was not taken.
#[derive(Clone, Default)]
pub(super) struct Form {
    fields: BTreeMap<String, String>,
    /// Empty for a form that nobody has filled in yet.
    pub(super) reason: String,
}

impl Form {
    /// Several values of one name are written as the form takes them, with commas between.
    pub(super) fn new(fields: &Fields, names: &[&str], reason: String) -> Self {
        let typed = |name: &&str| {
            let values: Vec<&str> = fields.all(name).collect();
            (!values.is_empty()).then(|| ((*name).to_owned(), values.join(", ")))
        };
        Self { fields: names.iter().filter_map(typed).collect(), reason }
    }

    /// What was typed into a field; nothing for one that was left empty.
    pub(super) fn value(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// Whether a choice was made.
    pub(super) fn chose(&self, name: &str, value: &str) -> bool {
        self.value(name) == value
    }
}

impl Refused {
    pub(super) fn keep(&self, form: Form) -> anyhow::Result<String> {
        let name = hex::encode(keys::random::<16>()?);
        let mut forms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        forms.retain(|_, (since, _)| since.elapsed() < LIFE);
        if forms.len() >= MAX {
            let oldest = forms.iter().min_by_key(|(_, (since, _))| *since).map(|(name, _)| name.clone());
            oldest.and_then(|name| forms.remove(&name));
        }
        forms.insert(name.clone(), (Instant::now(), form));
        Ok(name)
    }

    pub(super) fn get(&self, name: &str) -> Option<Form> {
        let forms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        forms.get(name).filter(|(since, _)| since.elapsed() < LIFE).map(|(_, form)| form.clone())
    }
}
