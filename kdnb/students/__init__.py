"""Students that ship: trained networks that answer for any photograph, without the data and the run they are from."""

from kdnb.students.student import Student, load_student, save_student, shipped, student_kinds

__all__ = ["Student", "load_student", "save_student", "shipped", "student_kinds"]
