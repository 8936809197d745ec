"""Many small system calls, made where they hold nobody up.

A thousand links take 15 ms of the kernel's time, too long for the event loop. In a thread they
take as long while the loop is idle; while it is busy every single call has to win the interpreter
lock back, which made them take 30 to 400 times as long (measured: 19 ms, 0.5 s and 7 s for 1,000
links made and removed). So large jobs go to small processes, the hands, which have a lock of their
own; small ones, up to what takes some 300 us, are done at once.

`pool` is the server's side, `process` what a hand runs; `place` and `remove` are the work, plain
functions of plain values. What a hand imports is kept small: it starts in 30 ms.
"""
