package main

// entry is where the process begins if the linker is told so; see entry_amd64.s.
// Without that, and on other machines, beInit serves.
//
//lint:ignore U1000 the linker calls it
func entry()
