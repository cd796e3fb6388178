//! What one agent was answered, and so what has to be true.

/// What is known of a session or a delegation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It was answered as there.
    Live,
    /// It was answered as ended.
    Ended,
    /// Its end was asked for, and nobody answered.
    Unknown,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: String,
    pub(super) parent: Option<usize>,
    pub(super) state: State,
}

#[derive(Debug)]
pub(super) struct Edge {
    pub(super) id: String,
    pub(super) source: usize,
    pub(super) target: usize,
    /// The delegation that it was inherited from.
    pub(super) parent: Option<usize>,
    pub(super) state: State,
}

#[derive(Debug)]
pub(super) struct Mandate {
    pub(super) token: String,
    pub(super) edge: usize,
    /// Live until it is used, ended once it was; single-use.
    pub(super) state: State,
}

/// Everything that one agent was answered.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) sessions: Vec<Session>,
    pub(super) edges: Vec<Edge>,
    pub(super) mandates: Vec<Mandate>,
}

/// What follows for something that rests on others: it ended if one of them did, and is unknown if one of them is.
fn worst(states: impl IntoIterator<Item = State>) -> State {
    states.into_iter().fold(State::Live, |worst, state| match (worst, state) {
        (State::Ended, _) | (_, State::Ended) => State::Ended,
        (State::Unknown, _) | (_, State::Unknown) => State::Unknown,
        _ => State::Live,
    })
}

impl Model {
    /// What a session has to be: as it and all above it were answered.
    pub(super) fn session(&self, index: usize) -> State {
        let Some(session) = self.sessions.get(index) else { return State::Unknown };
        let above = session.parent.map_or(State::Live, |parent| self.session(parent));
        worst([session.state, above])
    }

    /// What a delegation has to be: as it, what it was inherited from, and the sessions at its ends.
    pub(super) fn edge(&self, index: usize) -> State {
        let Some(edge) = self.edges.get(index) else { return State::Unknown };
        let from = edge.parent.map_or(State::Live, |parent| self.edge(parent));
        worst([edge.state, from, self.session(edge.source), self.session(edge.target)])
    }

    /// What a mandate has to be.
    pub(super) fn mandate(&self, index: usize) -> State {
        let Some(mandate) = self.mandates.get(index) else { return State::Unknown };
        worst([mandate.state, self.edge(mandate.edge)])
    }

    /// The sessions that have to be so.
    pub(super) fn sessions_that_are(&self, state: State) -> Vec<usize> {
        (0..self.sessions.len()).filter(|index| self.session(*index) == state).collect()
    }

    /// The delegations that have to be so.
    pub(super) fn edges_that_are(&self, state: State) -> Vec<usize> {
        (0..self.edges.len()).filter(|index| self.edge(*index) == state).collect()
    }

    /// The mandates that have to be so.
    pub(super) fn mandates_that_are(&self, state: State) -> Vec<usize> {
        (0..self.mandates.len()).filter(|index| self.mandate(*index) == state).collect()
    }

    /// How many sessions are above a session.
    pub(super) fn depth(&self, index: usize) -> usize {
        let parent = self.sessions.get(index).and_then(|session| session.parent);
        parent.map_or(0, |parent| self.depth(parent) + 1)
    }

    /// How many children of a session were answered and not ended.
    pub(super) fn children(&self, index: usize) -> usize {
        self.sessions
            .iter()
            .filter(|session| session.parent == Some(index) && session.state != State::Ended)
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rests_on_something_ends_with_it() {
        let session = |parent| Session { id: String::new(), parent, state: State::Live };
        let edge =
            |source, target, parent| Edge { id: String::new(), source, target, parent, state: State::Live };
        let mut model = Model {
            sessions: vec![session(None), session(Some(0)), session(Some(1)), session(None)],
            edges: vec![edge(0, 1, None), edge(1, 2, Some(0)), edge(0, 3, None)],
            mandates: vec![Mandate { token: String::new(), edge: 1, state: State::Live }],
        };
        assert_eq!((model.depth(2), model.children(0)), (2, 1));
        assert_eq!(model.edges_that_are(State::Live), [0, 1, 2]);
        model.edges[0].state = State::Unknown;
        assert_eq!(model.mandates_that_are(State::Unknown), [0]);
        model.edges[0].state = State::Ended;
        assert_eq!(model.edges_that_are(State::Ended), [0, 1]);
        assert_eq!(model.sessions_that_are(State::Live), [0, 1, 2, 3]);
        model.sessions[0].state = State::Ended;
        assert_eq!(model.sessions_that_are(State::Live), [3]);
        assert_eq!(model.edges_that_are(State::Ended), [0, 1, 2]);
        assert_eq!(model.mandates_that_are(State::Live), [0usize; 0]);
    }
}
