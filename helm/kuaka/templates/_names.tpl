{{/* Names and labels. KubeRay adds to the cluster's name, so it is kept short. */}}

{{- define "kuaka.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "kuaka.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "kuaka.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "kuaka.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "kuaka.selectorLabels" -}}
app.kubernetes.io/name: {{ include "kuaka.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kuaka.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "kuaka.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "kuaka.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "kuaka.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "kuaka.journalClaim" -}}
{{- default (printf "%s-journal" (include "kuaka.fullname" .)) .Values.head.journal.existingClaim -}}
{{- end -}}

{{- define "kuaka.fleetsConfigMap" -}}
{{- printf "%s-fleets" (include "kuaka.fullname" .) -}}
{{- end -}}

{{/* What Ray's own names for a pod of this cluster are; KubeRay sets them. */}}
{{- define "kuaka.headLabels" -}}
ray.io/cluster: {{ include "kuaka.fullname" . }}
ray.io/node-type: head
{{- end -}}

{{- define "kuaka.hostLabels" -}}
ray.io/cluster: {{ include "kuaka.fullname" . }}
ray.io/node-type: worker
{{- end -}}

{{/* The names of ports with metrics, as JSON: kuaka's own, and all. */}}
{{- define "kuaka.exporters" -}}
{{- list "kuaka-agent" "kuaka-control" "kuaka-sched" | toJson -}}
{{- end -}}

{{- define "kuaka.metricsPorts" -}}
{{- $ports := list "metrics" "as-metrics" "dash-metrics" -}}
{{- if .Values.metrics.podMonitor.enabled -}}
{{- $ports = include "kuaka.exporters" . | fromJsonArray | concat $ports -}}
{{- end -}}
{{- toJson $ports -}}
{{- end -}}
