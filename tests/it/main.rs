
mod canonical;
mod hygiene;
mod guard_h1;
mod guard_h2;
