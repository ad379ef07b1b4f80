{{/* The head's pod: Ray's control plane, and the fleets' controller, which has its journal here. */}}

{{- define "kuaka.headPod" -}}
metadata:
  labels:
    {{- include "kuaka.labels" . | nindent 4 }}
    app.kubernetes.io/component: head
  {{- with .Values.head.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "kuaka.podCommon" . | nindent 2 }}
  {{- with .Values.head.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.head.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.head.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: ray-head
      {{- include "kuaka.image" . | nindent 6 }}
      securityContext:
        {{- include "kuaka.containerSecurity" . | nindent 8 }}
      env:
        {{- include "kuaka.environment" . | nindent 8 }}
        # A directory of its own in the volume, whose root is not this user's alone.
        - {name: KUAKA_STATE, value: /var/lib/kuaka/journal}
        - {name: KUAKA_RUNTIME, value: /tmp/kuaka}
        # A job that is stopped puts its guests back first.
        - {name: RAY_JOB_STOP_WAIT_TIME_S, value: "60"}
      ports:
        - {name: gcs-server, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
        - {name: client, containerPort: 10001}
        - {name: metrics, containerPort: 8080}
        - {name: as-metrics, containerPort: 44217}
        - {name: dash-metrics, containerPort: 44227}
        {{- with include "kuaka.exporterPorts" . | trim }}
        {{- . | nindent 8 }}
        {{- end }}
      {{- include "kuaka.probes" (dict "port" 8265 "path" "/api/gcs_healthz") | nindent 6 }}
      resources: {{- toYaml .Values.head.resources | nindent 8 }}
      volumeMounts:
        {{- include "kuaka.scratchMounts" . | nindent 8 }}
        - {name: journal, mountPath: /var/lib/kuaka}
        - {name: fleets, mountPath: /etc/kuaka/fleets, readOnly: true}
  volumes:
    {{- include "kuaka.scratchVolumes" . | nindent 4 }}
    - name: journal
      persistentVolumeClaim:
        claimName: {{ include "kuaka.journalClaim" . }}
    - name: fleets
      configMap:
        name: {{ include "kuaka.fleetsConfigMap" . }}
{{- end -}}
