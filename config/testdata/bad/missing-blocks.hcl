# nothing here yet

