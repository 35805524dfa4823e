//! Numbers for names that many peers have in common: regions, providers, nodes.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Most names; one more is as if it were not known.
const MAX_NAMES: usize = 60_000;

/// Names by number, and numbers by name; 0 stands for none. A name stays as long as the process.
#[derive(Default)]
pub(crate) struct Names(RwLock<Table>);

#[derive(Default)]
struct Table {
    numbers: HashMap<Arc<str>, u16>,
    names: Vec<Arc<str>>,
}

impl Names {
    /// The number of a name; 0 for an empty one, and when there are too many.
    pub(crate) fn number(&self, name: &Arc<str>) -> u16 {
        if name.is_empty() {
            return 0;
        }
        if let Some(number) = self.0.read().unwrap_or_else(PoisonError::into_inner).numbers.get(name) {
            return *number;
        }
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = table.numbers.get(name) {
            return *number;
        }
        if table.names.len() >= MAX_NAMES {
            return 0;
        }
        table.names.push(Arc::clone(name));
        let number = table.names.len() as u16;
        table.numbers.insert(Arc::clone(name), number);
        number
    }

    /// The name of a number; empty for 0.
    pub(crate) fn name(&self, number: u16) -> Arc<str> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let found = usize::from(number).checked_sub(1).and_then(|at| table.names.get(at));
        found.map_or_else(|| Arc::from(""), Arc::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_number() {
        let names = Names::default();
        let (one, two) = (names.number(&"DE".into()), names.number(&"FR".into()));
        assert_ne!(one, two);
        assert_eq!(names.number(&"DE".into()), one);
        assert_eq!((&*names.name(one), &*names.name(two), &*names.name(0), &*names.name(9)), ("DE", "FR", "", ""));
        assert_eq!(names.number(&"".into()), 0);
    }
}
