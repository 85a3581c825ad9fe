//! `root`: the keys of the deployment. Each verb draws up the next root from the one that these keys believe, shows what would be
//! different, signs and hands it in; or writes it to a file for keys that are elsewhere.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Serialize;
use upswarm_protocol::catalog::{HeldKey, Keys, Root};
use upswarm_protocol::codec;
use upswarm_protocol::envelope::Kind;
use upswarm_protocol::ids::{DocHash, PublicKey};
use upswarm_protocol::keyring::{Holder, is_holder};
use upswarm_protocol::time::Wall;

use super::admin::{AdminArgs, KeyArgs};
use super::sign::{agree, exported, hand_in, write};
use super::{CliError, Common};
use crate::api::approvals::HexBytes;
use crate::api::roots::{Asked, RequestFile, RootChain};
use crate::clock::wall;
use crate::coordinator::admin::root::{self, RoleName, RootChange};
use crate::coordinator::anchor::Anchor;
use crate::coordinator::client::Client;
use crate::coordinator::directory::Directory;
use crate::coordinator::keys::{self, COORDINATOR, KeyUse};
use crate::signing::place::KeyPlace;
use crate::signing::{Carried, check};
use crate::units;

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm root show
  upswarm root renew --for 730d
  upswarm coordinator standby-keys --data-dir DIR; upswarm root rotate online
  upswarm root new-key approver --holder 'Anna Ek' --keys-dir /media/new/keys
  upswarm root add-key approver KEY --holder 'Anna Ek'
  upswarm root new-key targeting --holder 'Eva Roos' --keys-dir NEW; upswarm root add-key targeting KEY --holder 'Eva Roos'
  upswarm root holder 5f0c3a9e 'Ben Oh'
  upswarm root revoke-key 5f0c3a9e
  upswarm root unpin-upstream debian-security
  upswarm root threshold approver 2                              # two persons; two keys of one are one voice
  upswarm root guide

Every verb takes --export FILE: nothing is signed here then, and `upswarm sign FILE` signs it where the keys are.";

const GUIDE: &str = "\
Which key has done what, and the way back from each. In brackets, the commands that are typed.

root expires [1]            status warns from 60 days before. With two of the three root keys at hand:
                              upswarm root renew --for 730d
keys in different places    add --export FILE to any verb below, and then, at each place [1 each] and at the coordinator [1]:
                              upswarm sign FILE; upswarm sign FILE.signed -o FILE.2; upswarm submit FILE.2
online key stolen [2]       the coordinator was taken over, or a copy of its disk is about. On a machine that is yours again:
                              upswarm coordinator standby-keys --data-dir DIR
                              upswarm root rotate online
                            Every machine of the coordinator's ledger gets a new certificate by itself; what the thief said with the
                            old key is forgotten. Look at `upswarm device list`: a machine that you do not know came by a stolen
                            token, so revoke it.
approver's key stolen [1-3] without another approver, first: upswarm root new-key approver --holder NAME --keys-dir NEW; then
                              upswarm root revoke-key KEY --replace-with NEWKEY
                            What only that key approved leaves the catalog; approve again what you still want. Machines without an
                            agent still believe the key: after the next approval, on each branch cache and for each group,
                              upswarm node apt-setup --filtered GROUP --host HOST:PORT
                            and put what it prints in the place of the .sources file of each such machine.
groups apart [2 and 1 each] so that who approves does not say which machines that is for. upswarm root new-key targeting --holder NAME
                            --keys-dir NEW; upswarm root add-key targeting KEY --holder NAME; then each group once: upswarm group sign NAME
targeting key stolen [1-3]  as an approver's, with `targeting`; sign the groups anew that only it had signed.
publisher's key stolen [1-3] the same with `publisher`. Its releases leave the catalog; publish them anew.
root key lost or stolen [2] one of three does nothing. upswarm root new-key root --holder NAME --keys-dir NEW; then
                              upswarm root revoke-key KEY --replace-with NEWKEY     (signed by two old keys and the new ones)
a machine stolen [1]          upswarm device revoke NAME
admin's token stolen [2]    stop the coordinator, write another word into DATA-DIR/admin.token, start it, log in anew.";

/// Show the root of trust, renew it, and change who signs what.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show who signs what, and until when.
    Show {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Let the root count for longer.
    Renew {
        /// For how long from now.
        #[arg(long = "for", value_name = "DURATION", default_value = "730d", value_parser = units::duration)]
        life: std::time::Duration,
        #[command(flatten)]
        how: How,
    },
    /// Put new keys in the place of all keys of a role.
    Rotate {
        /// Whose.
        #[arg(value_enum)]
        role: RoleName,
        /// The new keys. Of the online role, without it, the key that stands by in the coordinator's data directory on this
        /// machine.
        #[arg(long = "key", value_name = "KEY")]
        keys: Vec<PublicKey>,
        /// Who holds each of them, in the same order; online keys are the coordinator's.
        #[arg(long = "holder", value_name = "NAME", value_parser = holder)]
        holders: Vec<Holder>,
        /// Of which products' publishers, if there are several.
        #[arg(long)]
        prefix: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Give a role to one more key.
    AddKey {
        /// Which role.
        #[arg(value_enum)]
        role: RoleName,
        /// The key, as `new-key` prints it where it is made.
        key: PublicKey,
        /// Who holds it. One person with several keys is one voice.
        #[arg(long, value_name = "NAME", value_parser = holder)]
        holder: Holder,
        /// For a publisher: of which products. A new prefix makes a rule of its own.
        #[arg(long)]
        prefix: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Take a key out of its role. What only it has signed counts no more.
    RevokeKey {
        /// The key, or at least its first eight digits.
        key: String,
        /// The key that takes its place.
        #[arg(long, value_name = "KEY")]
        replace_with: Option<PublicKey>,
        /// Who holds that one; without it, whoever held the key that goes.
        #[arg(long, value_name = "NAME", value_parser = holder, requires = "replace_with")]
        holder: Option<Holder>,
        #[command(flatten)]
        how: How,
    },
    /// Say who holds a key.
    Holder {
        /// The key, or at least its first eight digits.
        key: String,
        /// A person's name. Thresholds count distinct holders.
        #[arg(value_parser = holder)]
        name: Holder,
        #[command(flatten)]
        how: How,
    },
    /// Let a repository be installed from no more.
    UnpinUpstream {
        /// Its name.
        name: String,
        #[command(flatten)]
        how: How,
    },
    /// Set how many holders of a role's keys must sign.
    Threshold {
        /// Which role.
        #[arg(value_enum)]
        role: RoleName,
        /// How many persons.
        count: u8,
        /// Of which products' publishers, if there are several.
        #[arg(long)]
        prefix: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Make an offline key where it will be used, and print what `add-key` wants of it. Needs no coordinator.
    NewKey {
        /// For which role.
        #[arg(value_enum)]
        role: RoleName,
        /// Who will hold it.
        #[arg(long, value_name = "NAME", value_parser = holder)]
        holder: Holder,
        #[command(flatten)]
        keys: KeyArgs,
    },
    /// Print the ways back from every key.
    Guide,
}

/// Signed here, or elsewhere.
#[derive(Debug, clap::Args)]
pub(super) struct How {
    /// Write the request to a file instead of signing it.
    #[arg(long, value_name = "FILE")]
    pub(super) export: Option<PathBuf>,
    /// Sign without asking.
    #[arg(long)]
    pub(super) yes: bool,
    #[command(flatten)]
    pub(super) admin: AdminArgs,
}

/// What `root show` prints as JSON.
#[derive(Serialize)]
struct Shown {
    version: u64,
    root: DocHash,
    expires: String,
    days_left: u64,
    /// Whether the walk began at a root that these keys know, and not at the first that was shown.
    verified: bool,
    roles: Vec<ShownRole>,
    standby: Vec<PublicKey>,
}

#[derive(Serialize)]
struct ShownRole {
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    threshold: u8,
    keys: Vec<ShownKey>,
}

#[derive(Serialize)]
struct ShownKey {
    key: PublicKey,
    holder: String,
}

/// What a verb that changes something prints as JSON.
#[derive(Serialize)]
struct Changed {
    version: u64,
    changes: Vec<String>,
    head_version: u64,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    match args.verb {
        Verb::Show { admin } => show(&admin, common),
        Verb::Renew { life, how } => change(RootChange::Renew(life), &how, common),
        Verb::Rotate { role, keys, holders, prefix, how } => {
            let keys = if keys.is_empty() { standing_by(role, &how.admin)? } else { keys };
            let held = in_hands(role, keys, holders)?;
            change(RootChange::Rotate(role, prefix, held), &how, common)
        }
        Verb::AddKey { role, key, holder, prefix, how } => {
            change(RootChange::Add(role, prefix, HeldKey { key, holder }), &how, common)
        }
        Verb::RevokeKey { key, replace_with, holder, how } => {
            change(RootChange::Revoke(key, replace_with, holder), &how, common)
        }
        Verb::Holder { key, name, how } => change(RootChange::Hold(key, name), &how, common),
        Verb::UnpinUpstream { name, how } => change(RootChange::Unpin(name), &how, common),
        Verb::Threshold { role, count, prefix, how } => {
            change(RootChange::Threshold(role, prefix, count), &how, common)
        }
        Verb::NewKey { role, holder, keys } => new_key(role, &holder, &keys, common),
        Verb::Guide => {
            common.print(&serde_json::json!({ "guide": GUIDE }), GUIDE);
            Ok(())
        }
    }
}

fn show(admin: &AdminArgs, common: Common) -> Result<(), CliError> {
    let chain = super::runtime()?.block_on(admin.client()?.roots())?;
    // Whoever only looks need not have any key.
    let anchor = admin.key_place(KeyUse::Root).ok().and_then(|place| anchor_of(&place).ok().flatten());
    let verified = anchor.is_some();
    let (root, _) = walk(&chain, anchor)?;
    let newest = chain.roots.last().map(|root| DocHash::of(&root.0)).unwrap_or_default();
    let role = |role, of: &Keys| {
        let shown = |held: &HeldKey| ShownKey { key: held.key, holder: held.holder.to_string() };
        ShownRole { role, prefix: None, threshold: of.threshold, keys: of.keys.iter().map(shown).collect() }
    };
    let mut roles = vec![role("root", &root.root), role("approver", &root.approvers), role("online", &root.online)];
    roles.extend(root.targeting.as_ref().map(|keys| role("targeting", keys)));
    roles.extend(root.publishers.iter().map(|rule| {
        let prefix = Some(rule.names().to_owned());
        ShownRole { prefix, ..role("publisher", &rule.keys) }
    }));
    let days_left = root.expires.since(wall()).as_secs() / 86_400;
    let mut lines = vec![format!(
        "root of trust, version {}, counts until {} ({days_left} days left)\n{newest}{}",
        root.version,
        root.expires,
        if verified { "" } else { "\nnot held against a root that is known here: these keys have no anchor.json" }
    )];
    for shown in &roles {
        let of = shown.prefix.as_ref().filter(|prefix| !prefix.is_empty());
        let of = of.map_or(String::new(), |prefix| format!(" of {prefix}"));
        let holders: BTreeSet<String> = shown.keys.iter().map(|held| held.holder.to_lowercase()).collect();
        lines.push(format!("{}{of}: {} of {} holders must sign", shown.role, shown.threshold, holders.len()));
        lines.extend(shown.keys.iter().map(|held| format!("  {}  {}", held.key, held.holder)));
    }
    lines.extend(root.upstreams.iter().map(|rule| format!("repository {}: {}", rule.name, rule.description)));
    lines.extend(chain.standby.iter().map(|key| format!("stands by at the coordinator: {key}")));
    let shown = Shown {
        version: root.version,
        root: newest,
        expires: root.expires.to_string(),
        days_left,
        verified,
        roles,
        standby: chain.standby,
    };
    common.print(&shown, &lines.join("\n"));
    Ok(())
}

/// Draws up the next root, and has it signed and handed in, or written to a file.
pub(super) fn change(change: RootChange, how: &How, common: Common) -> Result<(), CliError> {
    let (client, runtime) = (how.admin.client()?, super::runtime()?);
    let chain = runtime.block_on(client.roots())?;
    let place = how.admin.key_place(KeyUse::Root);
    // To draw a root up, a public chain is enough; whoever signs it walks from what the keys know.
    let anchor = place.as_ref().ok().and_then(|place| anchor_of(place).ok().flatten());
    let (today, _) = walk(&chain, anchor)?;
    let next = root::next(&today, &change, wall()).map_err(CliError::Refused)?;
    let changes = root::differences(&today, &next);
    let body = codec::encode(&next, Kind::Root.cap()).map_err(|error| CliError::Refused(error.to_string()))?;
    let file = RequestFile::new(chain.roots, Asked::Root(HexBytes(body)));
    if let Some(path) = &how.export {
        write(path, &file)?;
        exported(path, &changes.join("; "), common);
        return Ok(());
    }
    let place = place?;
    let head_version = runtime.block_on(sign_here(file, &place, how.yes, &client))?;
    let version = next.version;
    let text =
        format!("root version {version} is in force with index {head_version}; machines take it up as they hear of it");
    common.print(&Changed { version, changes, head_version }, &text);
    Ok(())
}

async fn sign_here(file: RequestFile, place: &KeyPlace, yes: bool, client: &Client) -> Result<u64, CliError> {
    let checked = check(file, place, Carried::Here, wall())?;
    agree(&checked, yes)?;
    let signed = checked.sign(place)?;
    Ok(hand_in(client, &signed.file.asked, signed.complete()?).await?.index_version)
}

fn anchor_of(place: &KeyPlace) -> Result<Option<Anchor>, CliError> {
    let noted = Anchor::read(&place.dir)?;
    Ok(noted.or_else(|| place.anchor.map(|root| Anchor::new(&place.dir, root))))
}

/// Walks the roots from the one that is known; without any, from the first.
fn walk(chain: &RootChain, anchor: Option<Anchor>) -> Result<(Root, Wall), CliError> {
    let roots: Vec<&[u8]> = chain.roots.iter().map(|root| root.0.as_slice()).collect();
    let first = roots.first().map(|first| DocHash::of(first)).unwrap_or_default();
    let mut anchor = anchor.unwrap_or_else(|| Anchor::new(std::path::Path::new(""), first));
    let now = wall();
    let root = anchor.walk(&roots, now).map_err(|error| CliError::Refused(format!("{error:#}")))?;
    Ok((root, now))
}

/// The online key that stands by, from the coordinator's own files: what it says over the network is no proof that it made it.
fn standing_by(role: RoleName, admin: &AdminArgs) -> Result<Vec<PublicKey>, CliError> {
    if role != RoleName::Online {
        return Err(CliError::Refused(
            "name the new keys with --key; make them where they will be used: upswarm root new-key ROLE".to_owned(),
        ));
    }
    let data_dir = admin.data_dir().map_err(|_| {
        CliError::Refused(
            "name the key that `upswarm coordinator standby-keys` has printed on the coordinator's machine: --key KEY"
                .to_owned(),
        )
    })?;
    let directory = Directory::existing(&data_dir)?;
    let (root, _) = directory.newest_root()?;
    let held = keys::public_halves(&directory.keys(), KeyUse::Online)?;
    let standby = held.into_iter().map(|(_, key)| key).rfind(|key| !root.online.contains(key));
    standby.map(|key| vec![key]).ok_or_else(|| {
        CliError::Refused(format!(
            "no online key stands by; make one first: upswarm coordinator standby-keys --data-dir {}",
            data_dir.display()
        ))
    })
}

/// Reads a holder's name.
fn holder(text: &str) -> Result<Holder, String> {
    let name = Holder::new(text).map_err(|error| error.to_string())?;
    if !is_holder(&name) {
        return Err(
            "a holder's name is letters of one script, digits and .-_'@ in words with one space between".to_owned()
        );
    }
    Ok(name)
}

/// Each key with its holder.
fn in_hands(role: RoleName, keys: Vec<PublicKey>, mut holders: Vec<Holder>) -> Result<Vec<HeldKey>, CliError> {
    if role == RoleName::Online && holders.is_empty() {
        holders = vec![Holder::lossy(COORDINATOR); keys.len()];
    }
    if keys.len() != holders.len() {
        return Err(CliError::Refused(format!(
            "{} keys and {} holders: name one with --holder for each --key, in the same order",
            keys.len(),
            holders.len()
        )));
    }
    Ok(keys.into_iter().zip(holders).map(|(key, holder)| HeldKey { key, holder }).collect())
}

fn new_key(role: RoleName, holder: &Holder, args: &KeyArgs, common: Common) -> Result<(), CliError> {
    let r#use = match role {
        RoleName::Root => KeyUse::Root,
        RoleName::Publisher => KeyUse::Publisher,
        RoleName::Approver => KeyUse::Approver,
        RoleName::Targeting => KeyUse::Targeting,
        RoleName::Online => {
            return Err(CliError::Refused(
                "online keys are made where they stay: upswarm coordinator standby-keys --data-dir DIR".to_owned(),
            ));
        }
    };
    let place = args.place(r#use)?;
    let passphrase = args.new_passphrase()?;
    std::fs::create_dir_all(&place.dir)
        .and_then(|()| crate::sys::close_to_others(&place.dir))
        .map_err(|error| CliError::Refused(format!("{}: {error}", place.dir.display())))?;
    let (path, public) = keys::make(&place.dir, r#use, Some(&passphrase))?;
    if let (None, Some(root)) = (Anchor::read(&place.dir)?, place.anchor) {
        Anchor::new(&place.dir, root).write()?;
    }
    let word = r#use.name();
    common.print(
        &serde_json::json!({ "key": public, "file": path, "role": word, "holder": holder.as_str() }),
        &format!(
            "{public}\nmade in {}; now, at the coordinator: upswarm root add-key {word} {public} --holder {:?}",
            path.display(),
            holder.as_str()
        ),
    );
    Ok(())
}
