module github.com/rktnetes/rktshim

go 1.26.0
