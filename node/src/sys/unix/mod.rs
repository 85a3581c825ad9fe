//! Linux, and as far as it goes every other Unix.

mod files;
mod interfaces;
mod lookup;
mod place;
mod priority;
mod process;
mod program;
mod root;
mod signals;
mod socket;
mod terminal;
mod users;

pub(crate) use files::{
    Access, Lock, Share, clone_blocks, close_to_others, create_private, create_private_dir, is_absence,
    is_own_private_dir, is_temporary, lock, lock_holder, lock_patiently, make_private_dir, open_at_once, open_plain,
    owned_by_another, read_at, read_settings, read_settings_of_another, remove, remove_soon, rename, replace,
    replace_soon, set_mode, space, sync_dir, write_private,
};
pub(crate) use interfaces::link_local_interfaces;
pub(crate) use lookup::find;
pub(crate) use place::{Folder, Kind, Made, Place, PlaceError, duplicate, locate, locate_or_make, open_folder, unmake};
pub(crate) use priority::{give_way, lower_priority};
pub(crate) use process::{ask_to_end, host_name, raise_descriptor_limit, set_default_modes, uptime};
pub(crate) use program::{Ended, Program};
pub(crate) use root::{Root, Stamp};
pub(crate) use signals::{ReloadRequests, asked_to_stop};
pub(crate) use socket::{
    BlockingStream, LocalListener, LocalStream, connect, listen_for, listen_private, peer_user, receive_files,
    send_files, try_tcp_port,
};
pub(crate) use terminal::ask_hidden;
pub(crate) use users::{give, is_administrator, user_id};
