//! What is reported of the rollout.
//!
//! Pure.

use std::sync::Arc;

use super::super::target::{Loaded, Target};
use super::super::transitions::Stage;
use super::{Newest, Phase, Rollout};

impl Rollout {
    /// The newest configuration, if it is good.
    pub fn newest_config(&self) -> Option<Arc<Loaded>> {
        match &self.newest {
            Newest::Good(loaded) => Some(loaded.clone()),
            Newest::Unknown | Newest::Refused { .. } => None,
        }
    }

    /// What the directory holds.
    pub const fn newest(&self) -> &Newest {
        &self.newest
    }

    /// The newest configuration was refused, or clashes on this node: its revision, and why.
    pub fn refused(&self) -> Option<(Option<String>, String)> {
        if let Newest::Refused { revision, why, .. } = &self.newest {
            return Some((revision.clone(), why.clone()));
        }
        let in_force = self.confirmed_target().map(|target| &target.source);
        let misfit = self
            .misfits
            .iter()
            .find(|misfit| Some(&misfit.target.source) != in_force)?;
        Some((
            misfit.target.revision().map(str::to_owned),
            misfit.why.clone(),
        ))
    }

    /// What is in force clashes with the newest facts: why.
    pub fn clash(&self) -> Option<&str> {
        let in_force = self.confirmed_target().map(|target| &target.source);
        self.misfits
            .iter()
            .find(|misfit| Some(&misfit.target.source) == in_force)
            .map(|misfit| misfit.why.as_str())
    }

    /// The newest revision, where it was refused or taken back.
    pub fn rejected_revision(&self) -> Option<String> {
        if let Some((revision, _)) = self.refused() {
            return revision;
        }
        match &self.phase {
            Phase::RollingBack { change } | Phase::RolledBack { change, .. }
                if self.is_edit(change) =>
            {
                change.target.revision().map(str::to_owned)
            }
            _ => self.rejected.clone(),
        }
    }

    /// Whether routes of the revision in force are held back, because they cut off the API server.
    pub fn holds_routes(&self) -> bool {
        match &self.phase {
            Phase::RollingBack { change } | Phase::RolledBack { change, .. } => {
                !self.is_edit(change)
            }
            _ => self.held.is_some(),
        }
    }

    /// The revision of the change that is being decided, or that was rejected.
    pub fn change_revision(&self) -> Option<&str> {
        match &self.phase {
            Phase::Confirming { change, .. }
            | Phase::RollingBack { change }
            | Phase::RolledBack { change, .. } => change.target.revision(),
            _ if self.held.is_some() => None,
            _ => self.rejected.as_deref(),
        }
    }

    /// Whether the change that is being decided is another revision.
    pub fn change_is_edit(&self) -> bool {
        match &self.phase {
            Phase::RollingBack { change } | Phase::RolledBack { change, .. } => {
                self.is_edit(change)
            }
            _ => self.held.is_none(),
        }
    }

    /// Whether all of this counts as confirmed, for the simulation to ask.
    #[cfg(test)]
    pub fn has_confirmed(&self, there: &super::super::target::Footprint) -> bool {
        self.confirmed_footprint()
            .is_some_and(|confirmed| !there.exceeds(confirmed))
    }

    /// What the target may not exceed, also where a pass failed that was to take out the rest, for the simulation to ask.
    #[cfg(test)]
    pub fn limit(&self) -> Option<&super::super::target::Footprint> {
        let is_limited = match self.phase {
            Phase::RollingBack { .. } | Phase::RolledBack { .. } | Phase::Asking { .. } => true,
            Phase::Settled => self.held.is_some(),
            _ => false,
        };
        self.confirmed_footprint().filter(|_| is_limited)
    }

    /// Where it is.
    pub const fn stage(&self) -> Stage {
        match self.phase {
            Phase::Starting => Stage::Starting,
            // What was confirmed is being put back.
            Phase::Settled if self.unsettled => Stage::Changing,
            Phase::Settled => Stage::Settled,
            Phase::Writing { guarded: None } => Stage::Reapplying,
            Phase::Asking { .. } | Phase::Writing { .. } => Stage::Changing,
            Phase::Confirming { .. } => Stage::Confirming,
            Phase::RollingBack { .. } => Stage::RollingBack,
            Phase::RolledBack { .. } => Stage::RolledBack,
            Phase::Inherited { .. } => Stage::Inherited,
        }
    }

    /// Whether the newest configuration is in force and confirmed, with what is known of the node now.
    pub fn is_at_newest(&self) -> bool {
        let Newest::Good(loaded) = &self.newest else {
            return false;
        };
        let in_force = self.confirmed_target();
        matches!(self.phase, Phase::Settled)
            && !self.unsettled
            && in_force.and_then(Target::revision) == Some(loaded.revision.as_str())
            // Other labels that are followed since this step are not written yet.
            && in_force == self.target.as_ref()
            && self.misfits.is_empty()
            && !self.holds_routes()
    }
}
