//! One of the threads: it takes jobs that run together, waits for memory, runs the model, and says what came of each job.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tracing::{debug, error};
use vae::{Observer, Vae, VaeError};

use super::batch::{Done, Finished, Member};
use super::watch::Watch;
use super::{LOOK, Next, Shared, lock};
use crate::failure::{Failure, FailureKind};
use crate::ledger::{Pool, Token};
use crate::scheduler::Options;
use crate::stages::guarded;

/// One of the threads.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) index: usize,
    pub(super) engine: Arc<Mutex<Token>>,
}

impl Worker {
    pub(super) fn run(&self) {
        let mut rested = false;
        loop {
            match self.shared.next(self.index, rested) {
                Next::Work(started) => {
                    rested = false;
                    let reading = &self.shared.reading;
                    let members =
                        started.into_iter().filter_map(|started| Member::begin(started, reading)).collect();
                    let mut ends = Vec::new();
                    let completed = self.work(members, &mut ends);
                    self.shared.lock().scheduler.finish(self.index, completed, Instant::now());
                    // Whoever hears of the end may come with the next job at once, and finds the worker free.
                    ends.into_iter().for_each(|(member, result)| member.end(result));
                }
                Next::Rest => {
                    rested = true;
                    self.shared.release(self.index);
                }
                Next::End => return,
            }
        }
    }

    /// Works on jobs that run together, and puts down what came of them. Where a batch fails, each of its members is tried
    /// alone, so that what is wrong with one harms no other. Returns whether the work was completed.
    fn work(&self, members: Vec<Member>, ends: &mut Ends) -> bool {
        let now = Instant::now();
        let (left, mut members): (Vec<_>, Vec<_>) =
            members.into_iter().partition(|member| member.has_left(now));
        ends.extend(left.into_iter().map(|member| self.give_up(member)));
        match self.run_together(&mut members) {
            End::Done(finished) => {
                ends.extend(finished.hand_out(members, &self.shared.ledger));
                true
            }
            End::Left => {
                debug!("the clients left; their work was cancelled");
                ends.extend(members.into_iter().map(|member| self.give_up(member)));
                false
            }
            End::Failed(_) if members.len() > 1 => {
                // All are tried, whatever comes of the first.
                let completed: Vec<_> =
                    members.into_iter().map(|member| self.work(vec![member], ends)).collect();
                completed.contains(&true)
            }
            End::Failed(failure) => {
                ends.extend(members.into_iter().map(|member| (member, Err(failure.clone()))));
                false
            }
        }
    }

    /// Ends a job for which nobody waits.
    fn give_up(&self, member: Member) -> (Member, Result<Done, Failure>) {
        let failure = if self.shared.stopping.load(Ordering::Relaxed) {
            Failure::shutting_down()
        } else if member.is_late(Instant::now()) {
            Failure::new(FailureKind::Deadline, "the request was not done within the time that it may take")
        } else {
            VaeError::Cancelled.into()
        };
        (member, Err(failure))
    }

    fn run_together(&self, members: &mut [Member]) -> End {
        let Some(first) = members.first() else { return End::Left };
        let (loaded, options, model) = (Arc::clone(&first.loaded), first.options, first.model);
        // What is logged of a batch carries the id of its first request.
        let _span = first.span.clone().entered();
        let mut engine = lock(&self.engine);
        let Some(mut vae) = loaded.vae(self.index) else { return End::Failed(Failure::lost()) };
        let Some(memory) = self.wait_for_memory(members, model, &mut engine, vae.as_mut()) else {
            return End::Left;
        };
        let start = Instant::now();
        self.shared.lock().scheduler.begin(self.index, start);
        let parts: Vec<_> = members.iter().map(|member| member.spans.work()).collect();
        let input = Member::join(members);
        let mut watch = Watch::new(self, members);
        let result = guarded(|| {
            // The first look at whether anybody still waits, in case the clients left just now.
            watch.progress(0, 1).map_err(VaeError::from)?;
            match options {
                Options::Decode(options) => vae.decode(input, &options, &mut watch),
                Options::Encode(options) => vae.encode(input, &options, &mut watch),
            }
        });
        drop((parts, memory));
        match result {
            Ok(Ok(output)) => {
                // What a batch took tells nothing of its members.
                let memory = if members.len() == 1 { vae.peak_memory() } else { None };
                End::Done(Finished { output, worked: start.elapsed(), memory })
            }
            Ok(Err(VaeError::Cancelled)) => End::Left,
            Ok(Err(error)) => End::Failed(error.into()),
            Err(panic) => {
                // What it kept may be half done.
                if let Err(panic) = guarded(|| vae.release()) {
                    error!(panic, "a model that panicked did so again while it gave back its memory");
                }
                engine.set(0);
                let message = "the model crashed on this request, which is a bug of the server";
                End::Failed(Failure::internal(message).because(panic))
            }
        }
    }

    /// Waits until there is memory for the work, and counts it: for the engine as long as it keeps it, for the host until the
    /// token is dropped. `None` when nobody waits for the work any more.
    fn wait_for_memory(
        &self,
        members: &[Member],
        model: usize,
        engine: &mut Token,
        vae: &mut dyn Vae,
    ) -> Option<Token> {
        let sum = |which: usize| {
            members
                .iter()
                .filter_map(|member| member.memory.get(which))
                .fold(0, |sum: usize, bytes| sum.saturating_add(*bytes))
        };
        let (on_engine, on_host) = (sum(0), sum(1));
        if self.shared.registry.make_room(on_engine.saturating_add(on_host), model) {
            // What was unloaded shares the engine's memory, which it may have left behind.
            vae.release();
            engine.set(0);
        }
        let copied = self.shared.registry.copied_weights();
        // What the engine keeps from earlier work is used again.
        let needed = |engine: &Token| {
            let more = on_engine.saturating_sub(engine.bytes());
            on_host.saturating_add(more).saturating_add(copied)
        };
        let mut token = self.shared.ledger.token(Pool::Work);
        while !token.try_grow(needed(engine)) {
            // Engines give back what they keep for later; the rest are answers, which their clients have to read.
            if engine.bytes() > 0 {
                vae.release();
                engine.set(0);
            }
            self.shared.release_idle(self.index);
            if token.try_grow(needed(engine)) {
                break;
            }
            let (now, stopping) = (Instant::now(), self.shared.stopping.load(Ordering::Relaxed));
            if stopping || members.iter().all(|member| member.has_left(now)) {
                return None;
            }
            std::thread::sleep(LOOK);
        }
        engine.set(engine.bytes().max(on_engine));
        token.set(on_host);
        Some(token)
    }
}

/// What came of each job.
type Ends = Vec<(Member, Result<Done, Failure>)>;

/// What came of work.
enum End {
    Done(Finished),
    /// Nobody waits for it any more.
    Left,
    Failed(Failure),
}
