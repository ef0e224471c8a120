module sidebyside

go 1.19
