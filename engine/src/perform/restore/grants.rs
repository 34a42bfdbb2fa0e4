//! The order of role memberships.
//!
//! `pg_dumpall` of a server before 16 lists memberships by name. From 16 on the grantor of a membership must hold it
//! with ADMIN OPTION at that moment, so `GRANT r TO b GRANTED BY a` fails when `GRANT r TO a WITH ADMIN OPTION` comes
//! later (PostgreSQL manual, GRANT, "GRANT on Roles").

use std::collections::VecDeque;

/// A membership as far as its place in the order goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Membership {
    granted: String,
    member: String,
    grantor: Option<String>,
    admin: bool,
}

impl Membership {
    /// Reads `GRANT granted TO member [WITH …] [GRANTED BY grantor]` from the roles that the statement names.
    pub(super) fn read(roles: &[String], text: &str) -> Option<Self> {
        let upper = text.trim_start().to_ascii_uppercase();
        if !upper.starts_with("GRANT") {
            return None;
        }
        let (granted, member, grantor) = match roles {
            [granted, member] => (granted, member, None),
            [granted, member, grantor] if upper.contains("GRANTED BY") => (granted, member, Some(grantor.clone())),
            _ => return None,
        };
        // A role's name may hold these words too; then only the order is not what it could be.
        let admin = upper.contains("ADMIN OPTION") || upper.contains("ADMIN TRUE");
        Some(Self { granted: granted.clone(), member: member.clone(), grantor, admin })
    }

    /// Whether `self` gives what the grantor of `other` must hold.
    fn enables(&self, other: &Self) -> bool {
        self.admin && self.granted == other.granted && Some(&self.member) == other.grantor.as_ref()
    }
}

/// Returns the places of the memberships in an order in which each grantor holds what it grants; else as they came.
pub(super) fn order(memberships: &[Option<Membership>]) -> Vec<usize> {
    let enables = |a: usize, b: usize| match (&memberships[a], &memberships[b]) {
        (Some(first), Some(second)) => a != b && first.enables(second),
        _ => false,
    };
    let all = 0..memberships.len();
    // Only a membership with ADMIN OPTION can stand before another one for its sake: there are few.
    let admins: Vec<usize> =
        all.clone().filter(|&at| memberships[at].as_ref().is_some_and(|membership| membership.admin)).collect();
    let mut waits: Vec<usize> =
        all.clone().map(|at| admins.iter().filter(|&&admin| enables(admin, at)).count()).collect();
    let mut ready: VecDeque<usize> = all.clone().filter(|&at| waits[at] == 0).collect();
    let mut placed = Vec::with_capacity(memberships.len());
    while let Some(at) = ready.pop_front() {
        placed.push(at);
        if admins.binary_search(&at).is_ok() {
            let freed: Vec<usize> = all.clone().filter(|&other| waits[other] > 0 && enables(at, other)).collect();
            for other in freed {
                waits[other] -= 1;
                if waits[other] == 0 {
                    ready.push_back(other);
                }
            }
        }
    }
    // What waits for itself in a circle goes last, as it came: the server says what it thinks of it.
    placed.extend(all.filter(|&at| waits[at] > 0));
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership(text: &str, roles: &[&str]) -> Option<Membership> {
        let roles: Vec<String> = roles.iter().map(|role| (*role).to_owned()).collect();
        Membership::read(&roles, text)
    }

    #[test]
    fn a_grantor_is_given_its_right_first() {
        let list = [
            membership("GRANT reader TO analyst GRANTED BY lead;", &["reader", "analyst", "lead"]),
            membership("GRANT reader TO lead WITH ADMIN OPTION GRANTED BY boss;", &["reader", "lead", "boss"]),
            membership("GRANT reader TO zoe GRANTED BY postgres;", &["reader", "zoe", "postgres"]),
            membership("GRANT reader TO boss WITH ADMIN OPTION;", &["reader", "boss"]),
        ];
        assert_eq!(order(&list), [2, 3, 1, 0]);
    }

    #[test]
    fn circles_and_other_statements_keep_their_order() {
        let list = [
            membership("GRANT r TO a WITH ADMIN OPTION GRANTED BY b;", &["r", "a", "b"]),
            membership("GRANT r TO b WITH ADMIN OPTION GRANTED BY a;", &["r", "b", "a"]),
            membership("REVOKE r FROM c;", &["r", "c"]),
        ];
        assert_eq!(list[2], None);
        assert_eq!(order(&list), [2, 0, 1]);
    }
}
