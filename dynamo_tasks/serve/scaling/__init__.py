"""The number of processes of a component: what is wanted, by whom, and who starts and drains them."""
