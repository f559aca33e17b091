
mod policy;
mod policy_command;
mod policy_load;
mod policy_route;
