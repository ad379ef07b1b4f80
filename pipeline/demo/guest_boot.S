# How the demo guest gets from the firmware to 64-bit code: a part of guest.S, which includes it.
#
# The rule: after the `cli` that follows the last sector read the firmware is never called again, and all tables the CPU
# walks are complete, accessed and dirty bits included, before it first does.

        .code16
        .globl _start
_start:
        cli
        xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x7c00
        ljmp    0, offset 1f
1:      sti
        cld
        mov     [drive], dl
        mov     bp, (parameters_end - _start) / 512 - 1 + TABLE_SECTORS
read_more:
        mov     ax, bp
        cmp     ax, 32
        jbe     1f
        mov     ax, 32
1:      mov     [packet_sectors], ax
        sub     bp, ax
        mov     si, offset packet
        mov     dl, [drive]
        mov     ah, 0x42
        int     0x13
        jc      stop_real
        mov     ax, [packet_sectors]
        add     [packet_lba], ax
        shl     ax, 5                   # paragraphs
        add     [packet_segment], ax
        test    bp, bp
        jnz     read_more
        cli
        mov     al, 0xff                # no interrupt until long mode asks for one
        out     0x21, al
        out     0xa1, al
        in      al, 0x92
        or      al, 2                   # A20
        and     al, 0xfe
        out     0x92, al
        lgdt    [gdt_pointer]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        ljmp    0x08, offset protected
stop_real:
        cli
        hlt
        jmp     stop_real

        .balign 4
packet: .byte   16, 0
packet_sectors:
        .word   0
        .word   0
packet_segment:
        .word   0x7e0
packet_lba:
        .quad   1
drive:  .byte   0

        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff      # 0x08: 32-bit code, accessed
        .quad   0x00cf93000000ffff      # 0x10: data, accessed
        .quad   0x00af9b000000ffff      # 0x18: 64-bit code, accessed
gdt_pointer:
        .word   gdt_pointer - gdt - 1
        .long   gdt
idt_pointer:
        .word   0x30 * 16 - 1
        .quad   IDT

        .org    510
        .word   0xaa55

# ------------------------------------------------------------------------------------------ 2 MiB pages, then long mode
        .code32
protected:
        mov     ax, 0x10
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     edi, STATE              # the state, interrupt and page table pages start as zeros
        mov     ecx, 0x2000 / 4
        xor     eax, eax
        rep stosd
        mov     edi, PML4
        mov     ecx, 0x2000 / 4
        rep stosd
        mov     dword ptr [PML4], PDPT + 0x23           # present, writable, accessed
        mov     eax, DIRECTORIES + 0x23
        mov     edi, PDPT
        mov     ecx, MAPPED_GIB
1:      mov     [edi], eax
        add     eax, 0x1000
        add     edi, 8
        loop    1b
        mov     edi, DIRECTORIES
        mov     eax, 0xe3               # present, writable, accessed, dirty, 2 MiB
        xor     edx, edx
        mov     ecx, MAPPED_GIB * 512
1:      mov     [edi], eax
        mov     [edi + 4], edx
        add     edi, 8
        add     eax, 0x200000
        adc     edx, 0
        loop    1b
        mov     eax, cr4
        or      al, 0x20                # PAE
        mov     cr4, eax
        mov     eax, PML4
        mov     cr3, eax
        mov     ecx, 0xc0000080
        rdmsr
        or      ah, 1                   # LME
        wrmsr
        mov     eax, cr0
        or      eax, 0x80000000
        mov     cr0, eax
        ljmp    0x18, offset long_mode
