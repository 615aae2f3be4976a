"""The tests. One file per module of `relay`, and `test_e2e_*` over real sockets with `tests.rig`."""
