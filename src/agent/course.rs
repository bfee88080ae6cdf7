//! The course: which configuration is in force, which one is newest, and which one to go back to.
//!
//! Pure. What is refused, missing or taken back never changes what is in force; only a good
//! configuration does.

use std::sync::Arc;

use crate::config::Config;
use crate::routing::diff::Wanted;

/// A configuration that passed its check.
#[derive(Debug, PartialEq)]
pub struct Loaded {
    /// Its revision.
    pub revision: String,
    /// What it says.
    pub config: Config,
}

/// What the kernel is kept equal to.
#[derive(Clone, Debug, PartialEq)]
pub enum Basis {
    /// A configuration, resolved anew each time.
    Config(Arc<Loaded>),
    /// What the kernel had of ours when a change was made and no earlier configuration was known.
    AsFound(Arc<Wanted>),
}

/// What the directory holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Newest {
    /// Not looked yet.
    #[default]
    Unknown,
    /// A good configuration.
    Good(Arc<Loaded>),
    /// One that was refused, or could not be read: why, and its revision where it has one.
    Refused {
        /// The revision, unless it could not be read.
        revision: Option<String>,
        /// One line.
        why: String,
        /// There is no `routes.yaml`, and nothing else is wrong.
        absent: bool,
    },
}

/// Where the agent is heading.
#[derive(Debug, Default)]
pub struct Course {
    newest: Newest,
    in_force: Option<Basis>,
    good: Option<Basis>,
    /// A good configuration that did not fit this node as it was.
    unfit: Option<Arc<Loaded>>,
}

impl Course {
    /// What the directory holds.
    pub fn newest(&self) -> &Newest {
        &self.newest
    }

    /// What the kernel is kept equal to; `None` is nothing: the kernel stays as it is.
    pub fn in_force(&self) -> Option<&Basis> {
        self.in_force.as_ref()
    }

    /// The revision in force; empty where none is known.
    pub fn revision(&self) -> &str {
        match &self.in_force {
            Some(Basis::Config(loaded)) => &loaded.revision,
            _ => "",
        }
    }

    /// The configuration in force.
    pub fn config(&self) -> Option<&Arc<Loaded>> {
        match &self.in_force {
            Some(Basis::Config(loaded)) => Some(loaded),
            _ => None,
        }
    }

    /// The directory holds this now. Whether that is another answer than before.
    pub fn found(&mut self, newest: Newest) -> bool {
        let is_new = newest != self.newest;
        if is_new {
            self.unfit = None;
        }
        self.newest = newest;
        is_new
    }

    /// The newest configuration becomes the one in force, if it is good.
    pub fn follow(&mut self) {
        if let Newest::Good(loaded) = &self.newest {
            self.in_force = Some(Basis::Config(loaded.clone()));
        }
    }

    /// The newest configuration turns out not to fit this node.
    pub fn refuse(&mut self, why: String) {
        if let Newest::Good(loaded) = &self.newest {
            let refused = Newest::Refused {
                revision: Some(loaded.revision.clone()),
                why,
                absent: false,
            };
            self.unfit = Some(loaded.clone());
            self.newest = refused;
            self.in_force.clone_from(&self.good);
        }
    }

    /// The node has changed: what did not fit it is tried again. Whether there is something to try.
    pub fn reconsider(&mut self) -> bool {
        let Some(loaded) = self.unfit.take() else {
            return false;
        };
        self.newest = Newest::Good(loaded);
        self.follow();
        true
    }

    /// What is in force is good: later changes go back to it.
    pub fn confirm(&mut self) {
        self.good.clone_from(&self.in_force);
    }

    /// A change is about to be made and nothing earlier is known to go back to: what the kernel has is.
    pub fn remember(&mut self, found: impl FnOnce() -> Wanted) {
        if self.good.is_none() {
            self.good = Some(Basis::AsFound(Arc::new(found())));
        }
    }

    /// Goes back to what was good; with nothing to go back to, to no routes at all.
    pub fn take_back(&mut self) {
        self.remember(Wanted::default);
        self.in_force.clone_from(&self.good);
    }

    /// Leaves the kernel as it is.
    pub fn pause(&mut self) {
        self.in_force = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(revision: &str) -> Arc<Loaded> {
        Arc::new(Loaded {
            revision: revision.to_owned(),
            config: Config {
                sets: Vec::new(),
                expected_rules: Vec::new(),
                protected: Vec::new(),
            },
        })
    }

    fn from_confirmed_a_to_b() -> Course {
        let mut course = Course::default();
        course.found(Newest::Good(loaded("a")));
        course.follow();
        course.confirm();
        course.found(Newest::Good(loaded("b")));
        course.follow();
        course
    }

    #[test]
    fn what_is_refused_changes_nothing_in_force() {
        let mut course = Course::default();
        assert!(course.found(Newest::Good(loaded("a"))));
        course.follow();
        assert!(course.found(Newest::Refused {
            revision: Some("b".into()),
            why: "no".into(),
            absent: false,
        }));
        course.follow();
        assert_eq!(course.revision(), "a");
        assert!(!course.found(Newest::Refused {
            revision: Some("b".into()),
            why: "no".into(),
            absent: false,
        }));
    }

    #[test]
    fn a_change_that_is_taken_back_returns_to_the_last_confirmed_one() {
        let mut course = from_confirmed_a_to_b();
        course.found(Newest::Good(loaded("c")));
        course.follow();
        course.take_back();
        assert_eq!(course.revision(), "a");
    }

    #[test]
    fn without_an_earlier_configuration_it_returns_to_what_the_kernel_had() {
        let mut course = Course::default();
        course.found(Newest::Good(loaded("a")));
        course.follow();
        course.remember(Wanted::default);
        course.take_back();
        assert_eq!(
            course.in_force(),
            Some(&Basis::AsFound(Arc::new(Wanted::default())))
        );
    }

    #[test]
    fn a_configuration_that_does_not_fit_the_node_gives_way_to_the_last_good_one() {
        let mut course = from_confirmed_a_to_b();
        course.refuse("clash".into());
        assert_eq!(course.revision(), "a");
        assert!(matches!(course.newest(), Newest::Refused { revision: Some(r), .. } if r == "b"));
        assert!(course.reconsider(), "the node has changed");
        assert_eq!(course.revision(), "b");
        assert!(!course.reconsider());
        course.refuse("clash".into());
        course.found(Newest::Good(loaded("c")));
        assert!(!course.reconsider(), "another configuration is the newest");
    }
}
