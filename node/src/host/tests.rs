//! Two and three hosts on loopback.
