//! Who seems to lead a run that goes on.

use crate::task::Direction;

/// Where few were judged, a mean is drawn towards the overall mean as if so many more had been judged at that: a few lucky
/// answers do not lead.
const PRIOR: f64 = 5.0;

/// The mean of each trial as a gain, drawn so, from the sum of its scores and how many there are; `None` where there is none.
pub fn gains(scores: &[(f64, u64)], direction: Direction) -> Vec<Option<f64>> {
    let all = scores.iter().fold((0.0, 0), |all, own| (all.0 + own.0, all.1 + own.1));
    let middle = all.0 / all.1.max(1) as f64;
    let drawn = |own: &(f64, u64)| direction.gain((own.0 + PRIOR * middle) / (own.1 as f64 + PRIOR));
    scores.iter().map(|own| (own.1 > 0).then(|| drawn(own))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_lucky_answers_do_not_lead_and_nothing_is_nothing() {
        let scores = [(19.0, 20), (1.0, 1), (0.0, 5), (0.0, 0)];
        let gains = |direction| gains(&scores, direction);
        let most = gains(Direction::Maximize);
        assert!(most[0] > most[1] && most[1] > most[2] && most[3].is_none(), "{most:?}");
        let least = gains(Direction::Minimize);
        assert!(least[2] > least[1] && least[1] > least[0], "{least:?}");
    }
}
