# The demo guest: fills its memory with a known mix of pages, then dirties it at a given rate, for ever.
#
# The rule: from the moment the ready word is 1, every byte of RAM is a function of the parameters and of the number of
# steps done, so that a program outside can say what any page must hold (guest_model.py is that program; the two must
# agree). Hence no stack, no variables and no firmware after boot: state lives in registers. Interrupts are on at a single
# instruction, the HLT in which the guest waits, so the one thing a CPU pushes is the same 40 bytes every time (but for
# the resume flag, which QEMU 7.2 clears and 10.0 sets; the comparison knows).
# Accessed and dirty bits are set in advance in all tables, so that the CPU has none to set.
#
#   as --64 -I . -o guest.o guest.S && ld -Ttext=0x7c00 --oformat=binary -o guest.bin guest.o
#
# guest.py puts the parameters at the end of the binary and the tables of guest_tables.py after it.

        .intel_syntax noprefix

        .set TEXT_TABLE,   0x9000       # 2048 words
        .set CODE_TABLE,   0xd000       # 1024 pairs (fixed bits, varying bits)
        .set STATE,        0x12000      # magic, ready, steps
        .set IDT,          0x13000
        .set STACK_TOP,    0x14000
        .set PML4,         0x20000
        .set PDPT,         0x21000
        .set DIRECTORIES,  0x22000      # one page per GiB
        .set MAPPED_GIB,   64
        .set TABLE_SECTORS, 64
        .set FIRST_PAGE,   256          # below 1 MiB: ours and the firmware's
        .set SCARRED_PAGES, 0x2000      # the firmware works in the first and last 32 MiB below 4 GiB, nowhere else
        .set READY,        1
        .set WRONG_MEMORY, 2
        .set PM_TIMER,     0x608        # where SeaBIOS puts it on pc and q35: 3.579545 MHz, 24 bits
        .set TICKS_PER_WAKE, 4773       # of the interval timer's 1.193182 MHz: 250 Hz

        .include "guest_boot.S"

# Registers from here on:
#   r8 GOLDEN   r9, r10 multipliers of mix   r11 multiplier of a word   r12 page, later step
#   r13 credit (steps, 32.32 fixed point)   r14 pages in the block, later last clock   r15 pages below 4 GiB
        .code64
        .macro  mix value, scratch      # splitmix64's finalizer
        mov     \scratch, \value
        shr     \scratch, 30
        xor     \value, \scratch
        imul    \value, r9
        mov     \scratch, \value
        shr     \scratch, 27
        xor     \value, \scratch
        imul    \value, r10
        mov     \scratch, \value
        shr     \scratch, 31
        xor     \value, \scratch
        .endm

        .macro  put value, port
        mov     al, \value
        out     \port, al
        .endm

        .macro  cmos first, last, into  # \into = registers \first .. \last, the last one highest
        xor     \into, \into
        .set    at, \last
        .rept   \last - \first + 1
        put     at, 0x70
        in      al, 0x71
        movzx   eax, al
        shl     \into, 8
        or      \into, eax
        .set    at, at - 1
        .endr
        .endm

        .macro  address                 # rdi = address of page rax of the block; rdx is lost
        mov     rdi, rax
        mov     rdx, 0x100000
        sub     rdx, r15
        add     rdx, rax
        cmp     rax, r15
        cmovae  rdi, rdx
        shl     rdi, 12
        .endm

        .macro  fill_with generator     # no stack: the way back is in rbp
        lea     rbp, [rip + 773f]
        jmp     \generator
773:
        .endm

        .macro  word                    # rax = word of the stream at rdx, which moves on
        mov     rax, rdx
        shr     rax, 32
        xor     rax, rdx
        imul    rax, r11
        add     rdx, r8
        .endm

long_mode:
        mov     r8, 0x9e3779b97f4a7c15
        mov     r9, 0xbf58476d1ce4e5b9
        mov     r10, 0x94d049bb133111eb
        mov     r11, 0xd6e8feb86659fd93
        mov     rax, [magic]
        mov     [STATE], rax
        cmos    0x34, 0x35, r15d        # RAM from 16 MiB to 4 GiB, in 64 KiB
        shl     r15, 4
        add     r15, 0x1000
        cmos    0x5b, 0x5d, r14d        # RAM from 4 GiB up, in 64 KiB
        shl     r14, 4
        add     r14, r15
        cmp     r14, [block_pages]
        je      fill
        mov     qword ptr [STATE + 8], WRONG_MEMORY
        jmp     stop

# ----------------------------------------------------------------------------------------------------------------- fill
fill:   mov     r12, FIRST_PAGE
fill_page:
        mov     rbx, r12
        imul    rbx, r8
        add     rbx, [fill_seed]
        mix     rbx, rax
        mov     rax, r12
        address
        mov     rax, rbx
        shr     rax, 32
        cmp     rax, [zero_below]
        jb      fill_zero
        cmp     rax, [text_below]
        jb      fill_text
        cmp     rax, [code_below]
        jb      fill_code
        fill_with random_page
        jmp     fill_next
fill_text:
        fill_with text_page
        jmp     fill_next
fill_code:
        fill_with code_page
        jmp     fill_next
fill_zero:                              # RAM is zeros at power-on: write only where the firmware may have been, so that
        cmp     r12, SCARRED_PAGES      # the host need not find memory for the rest
        jb      1f
        cmp     r12, r15
        jae     fill_next
        lea     rax, [r12 + SCARRED_PAGES]
        cmp     rax, r15
        jb      fill_next
1:      fill_with zero_page
fill_next:
        inc     r12
        cmp     r12, r14
        jb      fill_page
        xor     r12d, r12d              # step 0 comes next
        cmp     qword ptr [credit_per_tick], 0
        je      ready_and_still

# ------------------------------------------------------------------------------- one interrupt, every 4 ms, only in HLT
        mov     edi, IDT + 0x20 * 16
        mov     ecx, 16
1:      mov     word ptr [rdi], offset woken
        mov     word ptr [rdi + 2], 0x18
        mov     word ptr [rdi + 4], 0x8e00
        add     edi, 16
        loop    1b
        lidt    [idt_pointer]
        put     0x11, 0x20              # both interrupt controllers: vectors 0x20 and 0x28, end of interrupt by itself
        put     0x11, 0xa0
        put     0x20, 0x21
        put     0x28, 0xa1
        put     4, 0x21
        put     2, 0xa1
        put     3, 0x21
        put     3, 0xa1
        put     0xff, 0xa1
        put     0xfe, 0x21              # all but the interval timer are masked
        put     0x34, 0x43              # timer 0: both bytes, rate generator
        put     TICKS_PER_WAKE & 0xff, 0x40
        put     TICKS_PER_WAKE >> 8, 0x40
        xor     r13d, r13d
        mov     edx, PM_TIMER
        in      eax, dx
        mov     r14d, eax
        jmp     wait                    # the first wait leaves the interrupt frame in RAM, before it is called ready

# ---------------------------------------------------------------------------------------------------------------- dirty
woken:  mov     esp, STACK_TOP
        mov     qword ptr [STATE + 8], READY
        mov     edx, PM_TIMER
        in      eax, dx
        mov     ecx, eax
        sub     eax, r14d
        and     eax, 0xffffff
        mov     r14d, ecx
        imul    rax, [credit_per_tick]
        add     r13, rax
        cmp     r13, [credit_limit]     # a guest that was held up catches up by this much and no more
        cmova   r13, [credit_limit]
next_step:
        mov     rax, 0x100000000
        sub     r13, rax
        jae     step
        add     r13, rax
wait:   mov     esp, STACK_TOP
        xor     eax, eax                # flags as ever: they are pushed
        sti
        hlt

step:   mov     rbx, r12
        imul    rbx, r8
        add     rbx, [step_seed]
        mix     rbx, rax
        mov     rax, rbx
        shr     rax, 32
        imul    rax, [working_set_pages]
        shr     rax, 32
        add     rax, FIRST_PAGE
        address
        mov     eax, ebx
        and     eax, 15
        jz      step_clear
        cmp     eax, 2
        jb      step_text
        je      step_random
        mov     ecx, ebx                # 1..4 words, at a place that depends on the step
        shr     ecx, 4
        and     ecx, 3
        inc     ecx
        mov     esi, ebx
        shr     esi, 8
        mov     rdx, rbx
1:      and     esi, 511
        word
        mov     [rdi + rsi * 8], rax
        add     esi, 67
        dec     ecx
        jnz     1b
step_done:
        inc     r12
        mov     [STATE + 16], r12
        jmp     next_step
step_clear:
        fill_with zero_page
        jmp     step_done
step_text:
        fill_with text_page
        jmp     step_done
step_random:
        fill_with random_page
        jmp     step_done

ready_and_still:
        mov     qword ptr [STATE + 8], READY
stop:   cli
        hlt
        jmp     stop

# ---------------------------------------------------------------------------------------------------------- whole pages
# rbx seed, rdi address, the way back in rbp; rax, rcx, rdx and rsi are lost
        .macro  generator name, content
\name:  mov     rdx, rbx
        lea     rcx, [rdi + 4096]
1:      word
        \content
        mov     [rdi], rax
        add     rdi, 8
        cmp     rdi, rcx
        jne     1b
        jmp     rbp
        .endm

        .macro  random
        .endm

        .macro  text
        shr     rax, 53
        mov     rax, [TEXT_TABLE + rax * 8]
        .endm

        .macro  code
        mov     rsi, rax
        shr     rsi, 54
        shl     esi, 4
        and     rax, [CODE_TABLE + rsi + 8]
        or      rax, [CODE_TABLE + rsi]
        .endm

        generator random_page, random
        generator text_page, text
        generator code_page, code
zero_page:
        xor     eax, eax
        mov     ecx, 512
        rep stosq
        jmp     rbp

# --------------------------------------------------------------------------------- parameters: guest.py overwrites them
        .org    0x1400 - 80
magic:  .ascii  "kuakaRAM"
block_pages:
        .quad   0
working_set_pages:
        .quad   0
zero_below:                             # thresholds of a page's upper 32 seed bits
        .quad   0
text_below:
        .quad   0
code_below:
        .quad   0
credit_per_tick:                        # steps per tick of the clock, 32.32
        .quad   0
credit_limit:
        .quad   0
fill_seed:
        .quad   0
step_seed:
        .quad   0
parameters_end:
