//! What a site costs in which nothing goes on does not depend on its size, and comings and goings are known soon.

use upswarm_simulations::idle;
use upswarm_simulations::world::Params;

#[test]
fn sites_of_any_size_are_quiet_and_know_who_is_here() {
    for (nodes, seed) in [(8, 1), (60, 2), (200, 3)] {
        let figures = idle::run(Params { nodes, seed, ..Params::default() }).unwrap();
        println!("{figures:?}");
        figures.check().unwrap();
    }
}
