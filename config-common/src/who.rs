//! Whom a `[[principal]]` means: a user by number or name, a group by name, or both.
//!
//! Names are looked up when the configuration is read, where blocking is allowed. A name that nobody has is no error, since
//! users come and go with packages; [`Who::doubts`] tells. Does not know what a principal may do.

use std::fmt;

use nix::unistd;
use schemars::JsonSchema;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

/// The users and the group that an entry is about: as written, and as numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    user: Option<User>,
    group: Option<String>,
    uids: Vec<u32>,
    gid: Option<u32>,
    doubts: Vec<String>,
}

/// A user, by uid or by name: `uid = 1000`, `uid = "joe"`, `user = "joe"`.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub enum User {
    /// The uid.
    Uid(u32),
    /// The name in the system's data base of users.
    Name(String),
}

/// The process that asks, as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker<'a> {
    /// Its effective uid.
    pub uid: u32,
    /// Its effective gid; `None` for a user without a group.
    pub gid: Option<u32>,
    /// Its supplementary groups.
    pub groups: &'a [u32],
}

/// Says of no user and no group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("missing field `uid` (a number or a name), or `group`")]
pub struct Nobody;

impl Who {
    /// The user, and everyone in the group: processes that run with it, and the users it lists as members.
    ///
    /// # Errors
    ///
    /// Neither is given.
    pub fn of(user: Option<User>, group: Option<String>) -> Result<Self, Nobody> {
        if user.is_none() && group.is_none() {
            return Err(Nobody);
        }
        let mut who = Self::default();
        match &user {
            Some(User::Uid(uid)) => who.uids.push(*uid),
            Some(User::Name(name)) => who.add_user(name),
            None => {}
        }
        if let Some(name) = &group {
            who.add_group(name);
        }
        Ok(Self { user, group, ..who })
    }

    /// What it was made of.
    pub fn written(self) -> (Option<User>, Option<String>) {
        (self.user, self.group)
    }

    /// Whether a process with these ids is meant.
    pub fn includes<'a>(&self, asker: impl Into<Asker<'a>>) -> bool {
        let Asker { uid, gid, groups } = asker.into();
        let runs_with = |group: u32| gid == Some(group) || groups.contains(&group);
        self.includes_user(uid) || self.gid.is_some_and(runs_with)
    }

    /// Whether the user is meant, whatever the group of the process.
    pub fn includes_user(&self, uid: u32) -> bool {
        self.uids.contains(&uid)
    }

    /// The only uid that is meant, where one is written.
    pub fn uid(&self) -> Option<u32> {
        match (&self.user, &self.group) {
            (Some(User::Uid(uid)), None) => Some(*uid),
            _ => None,
        }
    }

    /// What may not be meant as it is written. One clause each.
    pub fn doubts(&self) -> &[String] {
        &self.doubts
    }

    fn add_user(&mut self, name: &str) {
        match unistd::User::from_name(name) {
            Ok(Some(user)) => self.uids.push(user.uid.as_raw()),
            Ok(None) => {
                self.doubts.push(format!(
                    "a [[principal]] is for the user {name:?}, whom this system does not know"
                ));
            }
            Err(error) => {
                self.doubts.push(format!(
                    "a [[principal]] is for the user {name:?}, who cannot be looked up: {error}"
                ));
            }
        }
    }

    fn add_group(&mut self, name: &str) {
        match unistd::Group::from_name(name) {
            Ok(Some(group)) => {
                self.gid = Some(group.gid.as_raw());
                // A member that is no user is the group file's matter.
                let members =
                    group.mem.iter().filter_map(|member| unistd::User::from_name(member).ok().flatten());
                self.uids.extend(members.map(|user| user.uid.as_raw()));
            }
            Ok(None) => self
                .doubts
                .push(format!("a [[principal]] is for the group {name:?}, which this system does not know")),
            Err(error) => self.doubts.push(format!(
                "a [[principal]] is for the group {name:?}, which cannot be looked up: {error}"
            )),
        }
    }
}

impl From<u32> for Asker<'_> {
    /// A user without a group.
    fn from(uid: u32) -> Self {
        Self { uid, gid: None, groups: &[] }
    }
}

impl From<(u32, u32)> for Asker<'_> {
    /// Uid and gid.
    fn from((uid, gid): (u32, u32)) -> Self {
        Self { uid, gid: Some(gid), groups: &[] }
    }
}

impl From<u32> for Who {
    fn from(uid: u32) -> Self {
        Self { user: Some(User::Uid(uid)), uids: vec![uid], ..Self::default() }
    }
}

impl<'de> Deserialize<'de> for User {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UserVisitor)
    }
}

impl Serialize for User {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Uid(uid) => serializer.serialize_u32(*uid),
            Self::Name(name) => serializer.serialize_str(name),
        }
    }
}

struct UserVisitor;

impl Visitor<'_> for UserVisitor {
    type Value = User;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a user's number, 0 to 4294967295, or name")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<User, E> {
        u32::try_from(number)
            .map(User::Uid)
            .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<User, E> {
        u32::try_from(number)
            .map(User::Uid)
            .map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<User, E> {
        match text.parse() {
            Ok(uid) => Ok(User::Uid(uid)),
            Err(_) if text.is_empty() || text.contains('\0') => {
                Err(E::invalid_value(de::Unexpected::Str(text), &self))
            }
            Err(_) => Ok(User::Name(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(text: &str) -> Result<User, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_user_is_a_number_or_a_name() {
        assert_eq!(user("1000"), Ok(User::Uid(1000)));
        assert_eq!(user("4294967295"), Ok(User::Uid(u32::MAX)));
        assert_eq!(user("\"1000\""), Ok(User::Uid(1000)));
        assert_eq!(user("\"joe\""), Ok(User::Name("joe".into())));
        for bad in ["-1", "4294967296", "\"\"", "1.5", "true", "[]", "\"a\\u0000b\""] {
            let error = user(bad).unwrap_err();
            assert!(error.contains("number, 0 to 4294967295, or name"), "{bad}: {error}");
        }
    }

    #[test]
    fn names_are_looked_up() {
        let root = Who::of(Some(User::Name("root".into())), None).unwrap();
        assert!(root.includes(0) && !root.includes((1, 0)) && root.doubts().is_empty());
        assert_eq!((root.uid(), Who::from(0).uid()), (None, Some(0)));
        let group = Who::of(None, Some("root".into())).unwrap();
        assert!(group.includes((4711, 0)) && !group.includes((4711, 1)) && !group.includes(4711));
        let with = |groups| Asker { uid: 4711, gid: Some(1), groups };
        assert!(group.includes(with(&[5, 0])) && !group.includes(with(&[5, 1])));
        assert!(!root.includes(with(&[0])), "a user is no group");
        assert_eq!(group.uid(), None);
        let both = Who::of(Some(User::Uid(7)), Some("root".into())).unwrap();
        assert!(both.includes((7, 9)) && both.includes((8, 0)) && !both.includes((8, 9)));
    }

    #[test]
    fn an_unknown_name_is_nobody_and_a_doubt() {
        for who in [
            Who::of(Some(User::Name("no such user".into())), None),
            Who::of(None, Some("no such group".into())),
        ] {
            let who = who.unwrap();
            assert!(!who.includes((0, 0)) && who.doubts()[0].contains("no such"), "{who:?}");
        }
        assert_eq!(Who::of(None, None), Err(Nobody));
        let number = Who::of(Some(User::Uid(7)), None).unwrap();
        assert_eq!(number, Who::from(7));
        assert_eq!(number.written(), (Some(User::Uid(7)), None));
    }
}
