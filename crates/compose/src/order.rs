//! The order of services: who depends on whom, all the way, and where that leads round.

use std::collections::{BTreeMap, BTreeSet};

use crate::want::{ComposeProject, Service};

/// Services, and for each those that must come before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Order {
    needs: BTreeMap<String, BTreeSet<String>>,
}

/// Whether what services depend on is meant with them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Dependencies {
    /// It is, however far away.
    #[default]
    With,
    /// It is not.
    Without,
}

impl Dependencies {
    /// By what a command line says.
    #[must_use]
    pub fn unless(without: bool) -> Dependencies {
        if without { Dependencies::Without } else { Dependencies::With }
    }
}

impl Order {
    /// An order of services by what each needs.
    #[must_use]
    pub fn new(needs: BTreeMap<String, BTreeSet<String>>) -> Order {
        Order { needs }
    }

    /// The order of a project's services.
    #[must_use]
    pub fn of_services(want: &ComposeProject) -> Order {
        let needs = |service: &Service| service.depends_on.keys().cloned().collect();
        Order::new(want.services.values().map(|service| (service.name.clone(), needs(service))).collect())
    }

    /// The services that are meant by these names, all when there are none.
    #[must_use]
    pub fn select(&self, named: &[String], dependencies: Dependencies) -> BTreeSet<String> {
        match (named.is_empty(), dependencies) {
            (true, _) => self.needs.keys().cloned().collect(),
            (false, Dependencies::Without) => named.iter().cloned().collect(),
            (false, Dependencies::With) => self.closure(named.iter().map(String::as_str)),
        }
    }

    /// Services that lead round to the first of them, which stands again at the end; `None` when there are none.
    #[must_use]
    pub fn cycle(&self) -> Option<Vec<String>> {
        let mut done = BTreeSet::new();
        for start in self.needs.keys() {
            let mut path: Vec<&str> = Vec::new();
            // Entries are services to enter; `None` is the way back out of the last one.
            let mut open: Vec<Option<&str>> = vec![Some(start)];
            while let Some(next) = open.pop() {
                let Some(name) = next else {
                    done.extend(path.pop());
                    continue;
                };
                if let Some(from) = path.iter().position(|passed| *passed == name) {
                    let round = path.iter().skip(from).chain([&name]);
                    return Some(round.map(|name| (*name).to_owned()).collect());
                }
                if done.contains(name) {
                    continue;
                }
                path.push(name);
                open.push(None);
                open.extend(self.of(name).map(Some));
            }
        }
        None
    }

    /// `names` and all they need, however far away.
    #[must_use]
    pub fn closure<'a>(&'a self, names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        let mut open: Vec<&str> = names.into_iter().collect();
        while let Some(name) = open.pop() {
            if all.insert(name.to_owned()) {
                open.extend(self.of(name));
            }
        }
        all
    }

    /// All services, each after those it needs, otherwise by name. Those on a ring are left out.
    #[must_use]
    pub fn sorted(&self) -> Vec<&str> {
        let mut missing: BTreeMap<&str, usize> = BTreeMap::new();
        for name in self.needs.keys() {
            missing.insert(name, self.of(name).filter(|need| self.needs.contains_key(*need)).count());
        }
        let back = self.reversed();
        let mut ready: BTreeSet<&str> =
            missing.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name).collect();
        let mut sorted = Vec::with_capacity(self.needs.len());
        while let Some(name) = ready.pop_first() {
            sorted.push(name);
            for next in back.needs.get(name).into_iter().flatten() {
                let Some((key, count)) =
                    missing.get_key_value(next.as_str()).map(|(key, count)| (*key, *count))
                else {
                    continue;
                };
                missing.insert(key, count - 1);
                if count == 1 {
                    ready.insert(key);
                }
            }
        }
        sorted
    }

    /// The same order the other way round: who is needed comes after those that need it.
    #[must_use]
    pub fn reversed(&self) -> Order {
        let mut needs: BTreeMap<String, BTreeSet<String>> =
            self.needs.keys().map(|name| (name.clone(), BTreeSet::new())).collect();
        for (name, of) in &self.needs {
            for one in of {
                needs.entry(one.clone()).or_default().insert(name.clone());
            }
        }
        Order { needs }
    }

    /// What a service needs directly.
    pub fn of<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.needs.get(name).into_iter().flatten().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(lines: &[(&str, &[&str])]) -> Order {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Order::new(lines.iter().map(|(name, needs)| ((*name).to_owned(), set(needs))).collect())
    }

    #[test]
    fn a_ring_is_named_by_its_path() {
        assert_eq!(order(&[("a", &["b", "c"]), ("b", &["d"]), ("c", &["d"]), ("d", &[])]).cycle(), None);
        let ring = order(&[("a", &["b"]), ("b", &["c"]), ("c", &["d"]), ("d", &["b"])]);
        assert_eq!(ring.cycle().expect("a ring").join(" "), "b c d b");
        assert_eq!(order(&[("a", &["a"])]).cycle().expect("a ring").join(" "), "a a");
    }

    /// Fails when the search forgets what it has done: the diamonds double at each step.
    #[test]
    fn a_chain_of_diamonds_takes_no_time() {
        let mut needs = BTreeMap::new();
        for at in 0..400 {
            let next: BTreeSet<String> = [format!("l{at}"), format!("r{at}")].into();
            needs.insert(format!("n{at}"), next.clone());
            for side in next {
                needs.insert(side, [format!("n{}", at + 1)].into());
            }
        }
        assert_eq!(Order::new(needs).cycle(), None);
    }

    #[test]
    fn a_closure_goes_all_the_way_and_only_there() {
        let order = order(&[("web", &["api"]), ("api", &["db"]), ("db", &[]), ("other", &["db"])]);
        let names: Vec<String> = order.closure(["web"]).into_iter().collect();
        assert_eq!(names, ["api", "db", "web"]);
        assert_eq!(order.sorted(), ["db", "api", "other", "web"]);
        let back = order.reversed();
        assert_eq!(back.closure(["db"]).len(), 4);
        assert_eq!(back.of("web").count(), 0);
    }
}
