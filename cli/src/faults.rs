//! Failures on purpose, for the tests: in builds with the feature `stand-ins` only.
//!
//! `PGPLAN_FAULT=STEP/ACTION:HOW` strikes the first attempt at an action: `before` (it is refused and not done),
//! `after` (it is done and the answer is lost), `hold` (it does not come to an end before it is cancelled).

#[cfg(not(feature = "stand-ins"))]
pub(crate) use pgplan_engine::world::Real as Acting;

/// Returns how often in a row pgplan may end in the middle of an action; tests say less in `PGPLAN_MOST_CUTS`.
pub(crate) fn most_cuts() -> u32 {
    #[cfg(feature = "stand-ins")]
    if let Some(fewer) = crate::args::environment().get("PGPLAN_MOST_CUTS").and_then(|text| text.parse().ok()) {
        return fewer;
    }
    pgplan_engine::run::MOST_CUTS
}

/// Returns the world as it is.
#[cfg(not(feature = "stand-ins"))]
pub(crate) fn around(world: Acting) -> Acting {
    world
}

#[cfg(feature = "stand-ins")]
pub(crate) use faulty::{Faulty as Acting, around};

#[cfg(feature = "stand-ins")]
mod faulty {
    use std::{collections::BTreeMap, sync::Arc};

    use pgplan_engine::{
        action::{Action, Effect, Output, Outputs},
        error::{ErrorKind, StepError},
        op::Op,
        plan::Step,
        run::{ActionCx, LookCx, Opened, OwnUndo, Receipted, World},
        world::Real,
    };

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum How {
        Before,
        After,
        Hold,
    }

    /// The real world, in which one action goes wrong.
    pub(crate) struct Faulty {
        world: Real,
        fault: Option<(String, How)>,
    }

    /// Returns the world with the fault that the environment asks for.
    pub(crate) fn around(world: Real) -> Faulty {
        let wanted = crate::args::environment().remove("PGPLAN_FAULT");
        let fault = wanted.as_deref().and_then(|text| text.rsplit_once(':')).and_then(|(action, how)| {
            let how = match how {
                "before" => How::Before,
                "after" => How::After,
                "hold" => How::Hold,
                _ => return None,
            };
            Some((action.to_owned(), how))
        });
        Faulty { world, fault }
    }

    impl World for Faulty {
        async fn open(&self, step: &Step, cx: LookCx) -> Result<Opened, StepError> {
            self.world.open(step, cx).await
        }

        async fn perform(&self, step: &Step, action: &Action, cx: ActionCx) -> Result<Output, StepError> {
            let name = format!("{}/{}", step.id, action.id);
            let how = self.fault.as_ref().filter(|(wanted, _)| *wanted == name && cx.attempt == 1).map(|(_, how)| *how);
            // What a program says is not lost on the way as a server's answer is: it ends with a failure.
            let kind = if matches!(action.op, Op::Exec(_)) { ErrorKind::Tool } else { ErrorKind::Connection };
            // A program that a signal killed, statements without a transaction whose connection broke.
            let lost = if action.effect == Effect::Opaque { ErrorKind::Lost } else { kind };
            match how {
                None => self.world.perform(step, action, cx).await,
                Some(How::Before) => Err(StepError::new(kind, "refused on purpose")),
                Some(How::After) => {
                    self.world.perform(step, action, cx).await?;
                    Err(StepError::new(lost, "the answer was lost on purpose"))
                }
                Some(How::Hold) => {
                    cx.cancel.cancelled().await;
                    Err(StepError::new(ErrorKind::Interrupted, "held on purpose"))
                }
            }
        }

        async fn ensure(&self, step: &Step, cx: LookCx) -> Result<(), StepError> {
            self.world.ensure(step, cx).await
        }

        fn own_undo(&self, step: &Step, outputs: Arc<BTreeMap<String, Outputs>>) -> Result<Option<OwnUndo>, StepError> {
            self.world.own_undo(step, outputs)
        }

        async fn settle(
            &self,
            databases: BTreeMap<String, Receipted>,
            outputs: Arc<BTreeMap<String, Outputs>>,
        ) -> Vec<String> {
            self.world.settle(databases, outputs).await
        }

        async fn close(&self) -> Vec<String> {
            self.world.close().await
        }
    }
}
