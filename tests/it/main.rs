
mod canonical;
mod fuzz_replay;
mod guard_h1;
mod guard_h2;
mod hygiene;
